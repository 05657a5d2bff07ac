"""The outbox as senders see it: which deliveries are due, and what came of a try."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Integer, Subquery, Uuid, and_, exists, func, literal, select, true, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute, aliased

from api.webhooks.messages import body_of
from api.webhooks.sending import Outcome
from models.job import Job, database_now_plus
from models.records import Transition
from models.user import AuditEntry, User
from models.webhook import Delivery, DeliveryAttempt, DeliveryStatus, Webhook

# Deliveries that one process sends at a time: in all, to the webhooks of one user, and to one webhook.
MOST_AT_ONCE = 32
_MOST_OF_USER = 16
_MOST_TO_ONE = 2

# Spelled out in the SQL, so that a prepared statement can use the index of pending deliveries.
_PENDING = literal(DeliveryStatus.PENDING.value, literal_execute=True)


@dataclass(frozen=True)
class Claim:
    """A delivery that this process has to send; `attempt` fences what it writes of it."""

    delivery_id: int
    attempt: int
    nth_try: int  # since the event, or since it was asked for again
    webhook_id: UUID
    user_id: UUID  # whose webhook it is
    url: str
    secret: str
    message_id: str
    body: bytes


async def claim_due(session: AsyncSession, sending: Sequence[Claim], *, lease_seconds: float) -> list[Claim]:
    """Claim what is due beside what this process is `sending`; no other process gets it during the lease.

    It is one delivery of a webhook at most, and of no more webhooks than there is room for: of each user the one to
    which the least is being sent, then of each the next. So a slow receiver takes its share and no more, as does who
    has many of them. The events of one job go to a webhook in their order: a later one waits until the earlier is
    delivered or given up.
    """
    turns = _turns([claim.user_id for claim in sending], [claim.webhook_id for claim in sending])
    oldest = (
        select(Delivery.id)
        .where(Delivery.webhook_id == turns.c.webhook_id, _is_due())
        .order_by(Delivery.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=Delivery)
        .correlate(turns)
        .lateral()
    )
    due = (
        select(oldest.c.id)
        .select_from(turns)
        .join(oldest, true())
        .where(turns.c.turn <= _MOST_OF_USER)
        .order_by(turns.c.turn, func.random())
        .limit(MOST_AT_ONCE - len(sending))
        .cte("due")
    )
    claimed = await session.scalars(
        update(Delivery)
        .where(Delivery.id == due.c.id)
        .values(attempts=Delivery.attempts + 1, due_at=database_now_plus(lease_seconds))
        .returning(Delivery.id)
    )
    return await _claims(session, claimed.all())


def _turns(users: list[UUID], webhooks: list[UUID]) -> Subquery:
    """Return the webhooks for which something is due, each with the number that is its turn among its user's.

    What is being sent, of these users to these webhooks, has had its turn. Chance decides between equals, so that none
    of them is the first every time.
    """
    of_user, to_webhook = _times(Webhook.user_id, users), _times(Webhook.id, webhooks)
    rank = func.row_number().over(partition_by=Webhook.user_id, order_by=(to_webhook, func.random()))
    return (
        select(Webhook.id.label("webhook_id"), (of_user + rank).label("turn"))
        .join(User, User.id == Webhook.user_id)
        .where(Webhook.enabled, User.disabled_at.is_(None), to_webhook < _MOST_TO_ONE)
        .where(exists().where(Delivery.webhook_id == Webhook.id, _is_due()))
        .subquery("turns")
    )


def _times(column: InstrumentedAttribute[UUID], values: list[UUID]) -> ColumnElement[int]:
    """Return how often a column's value is among these."""
    return func.cardinality(func.array_positions(literal(values, ARRAY(Uuid)), column), type_=Integer)


def _is_due() -> ColumnElement[bool]:
    earlier = aliased(Delivery)
    is_first = ~exists().where(
        earlier.webhook_id == Delivery.webhook_id,
        earlier.job_id == Delivery.job_id,
        earlier.id < Delivery.id,
        earlier.status == _PENDING,
    )
    return and_(Delivery.status == _PENDING, Delivery.due_at <= func.clock_timestamp(), is_first)


async def record(session: AsyncSession, claim: Claim, outcome: Outcome, *, tries: int, retry_seconds: float) -> None:
    """Log a try, and settle its delivery unless a later try has begun, or it is gone."""
    # The webhook first, as its deletion locks them; key_share: changes of status do not wait for this.
    lock = {"key_share": True}
    webhook = await session.get(Webhook, claim.webhook_id, with_for_update=lock)
    delivery = await session.get(Delivery, claim.delivery_id, with_for_update=lock)
    if webhook is None or delivery is None:
        return
    session.add(
        DeliveryAttempt(
            delivery_id=claim.delivery_id,
            number=claim.attempt,
            status_code=outcome.status_code,
            error=outcome.error,
            answer=outcome.answer,
            seconds=outcome.seconds,
        )
    )
    if delivery.attempts == claim.attempt and delivery.status == DeliveryStatus.PENDING:
        delivery.settle(delivered=outcome.error is None, tries=tries, retry_seconds=retry_seconds)
        if webhook.count(delivery, outcome.error):
            session.add(_disabled(webhook, delivery))


def _disabled(webhook: Webhook, delivery: Delivery) -> AuditEntry:
    """Return the record of what the service does to its user's webhook, in no request of theirs."""
    return AuditEntry(
        user_id=webhook.user_id,
        action="webhook.disable",
        subject=f"webhook:{webhook.id}",
        request_id=f"delivery-{delivery.id}",
        detail={"reason": webhook.disabled_reason},
    )


async def _claims(session: AsyncSession, ids: Collection[int]) -> list[Claim]:
    if not ids:
        return []
    rows = await session.execute(
        select(Delivery, Webhook, Transition, Job.name, Job.spec["tags"], User.name.label("user"))
        .join(Webhook, Webhook.id == Delivery.webhook_id)
        .outerjoin(Transition, Transition.id == Delivery.transition_id)
        .outerjoin(Job, Job.id == Delivery.job_id)
        .outerjoin(User, User.id == Job.user_id)
        .where(Delivery.id.in_(ids))
    )
    return [_claim(row) for row in rows]


def _claim(row: Any) -> Claim:
    delivery, webhook, move, name, tags, user = row
    data = {"webhook": {"id": str(delivery.webhook_id)}} if move is None else {"job": _job(move, name, tags, user)}
    return Claim(
        delivery_id=delivery.id,
        attempt=delivery.attempts,
        nth_try=delivery.attempts - delivery.tries_before,
        webhook_id=webhook.id,
        user_id=webhook.user_id,
        url=webhook.url,
        secret=webhook.secret,
        message_id=delivery.message_id,
        body=body_of(delivery.message_id, delivery.event, move.at if move else delivery.created_at, data),
    )


def _job(move: Transition, name: str | None, tags: list[str], user: str) -> dict[str, Any]:
    """Return the job as the transition left it: what has happened to it since is told by messages of its own."""
    return {
        "id": str(move.job_id),
        "name": name,
        "user": user,
        "tags": tags,
        "status": move.to_status,
        "from_status": move.from_status,
        "reason": move.reason,
        "message": move.message,
        "attempt": move.attempt,
    }
