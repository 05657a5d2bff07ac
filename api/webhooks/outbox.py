"""The outbox as senders see it: which deliveries are due, and what came of a try."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import exists, func, literal, select, true, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from api.webhooks.messages import body_of
from api.webhooks.sending import Outcome
from models.job import Job, Transition, database_now_plus
from models.user import AuditEntry, User
from models.webhook import Delivery, DeliveryAttempt, DeliveryStatus, Webhook

# Spelled out in the SQL, so that a prepared statement can use the index of pending deliveries.
_PENDING = literal(DeliveryStatus.PENDING.value, literal_execute=True)


@dataclass(frozen=True)
class Claim:
    """A delivery that this process has to send; `attempt` fences what it writes of it."""

    delivery_id: int
    attempt: int
    nth_try: int  # since the event, or since it was asked for again
    webhook_id: UUID
    url: str
    secret: str
    message_id: str
    body: bytes


async def claim_due(session: AsyncSession, *, limit: int, busy: Collection[UUID], lease_seconds: float) -> list[Claim]:
    """Claim at most one due delivery of each webhook that is not `busy`; no other process gets it during the lease.

    The events of one job go to a webhook in their order: a later one waits until the earlier is delivered or given up.
    """
    earlier = aliased(Delivery)
    is_first = ~exists().where(
        earlier.webhook_id == Delivery.webhook_id,
        earlier.job_id == Delivery.job_id,
        earlier.id < Delivery.id,
        earlier.status == _PENDING,
    )
    oldest = (
        select(Delivery.id)
        .where(Delivery.webhook_id == Webhook.id, Delivery.status == _PENDING)
        .where(Delivery.due_at <= func.clock_timestamp(), is_first)
        .order_by(Delivery.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=Delivery)
        .correlate(Webhook)
        .lateral()
    )
    due = (
        select(oldest.c.id)
        .select_from(Webhook)
        .join(User, User.id == Webhook.user_id)
        .join(oldest, true())
        .where(Webhook.enabled, Webhook.id.not_in(busy), User.disabled_at.is_(None))
        .limit(limit)
        .cte("due")
    )
    claimed = await session.scalars(
        update(Delivery)
        .where(Delivery.id == due.c.id)
        .values(attempts=Delivery.attempts + 1, due_at=database_now_plus(lease_seconds))
        .returning(Delivery.id)
    )
    return await _claims(session, claimed.all())


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
        select(Delivery, Webhook.url, Webhook.secret, Transition, Job.name, Job.spec["tags"], User.name.label("user"))
        .join(Webhook, Webhook.id == Delivery.webhook_id)
        .outerjoin(Transition, Transition.id == Delivery.transition_id)
        .outerjoin(Job, Job.id == Delivery.job_id)
        .outerjoin(User, User.id == Job.user_id)
        .where(Delivery.id.in_(ids))
    )
    return [_claim(row) for row in rows]


def _claim(row: Any) -> Claim:
    delivery, url, secret, move, name, tags, user = row
    data = {"webhook": {"id": str(delivery.webhook_id)}} if move is None else {"job": _job(move, name, tags, user)}
    return Claim(
        delivery_id=delivery.id,
        attempt=delivery.attempts,
        nth_try=delivery.attempts - delivery.tries_before,
        webhook_id=delivery.webhook_id,
        url=url,
        secret=secret,
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
