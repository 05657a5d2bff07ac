"""Webhooks and their deliveries: whom a change of status is told to, and what came of each try.

Deliveries are written by a trigger on `transitions`, within the transaction that makes the change: whoever writes a
transition, nothing is told that did not happen, and nothing that happened is forgotten.
"""

from datetime import timedelta
from enum import StrEnum
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Delete, ForeignKey, Identity, Index, Text, delete, func, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, DatabaseTime, Key
from models.job import Job, Status, database_now_plus
from models.user import User

PING = "webhook.ping"
_LOG_KEPT_FOR = timedelta(days=30)
_GIVEN_UP_LIMIT = 10  # deliveries in a row; each was tried for hours


class Audience(StrEnum):
    """Whose jobs a webhook tells of."""

    OWN = "own"  # its user's
    LAB = "lab"  # everybody's, while its user is an admin


class DeliveryStatus(StrEnum):
    """How far a delivery is."""

    PENDING = "pending"  # will be tried, again or for the first time
    DELIVERED = "delivered"  # the receiver answered with a 2xx
    FAILED = "failed"  # given up


def event_of(status: Status) -> str:
    """Return the name of the event that a job has reached a status."""
    return f"job.{status}"


def _one_of(values: type[StrEnum]) -> str:
    return ", ".join(f"'{value}'" for value in values)


class Webhook(Base):
    """An address that is told of events.

    The secret is kept as it is, unlike that of a token: each message is signed with it.
    """

    __tablename__ = "webhooks"
    __table_args__ = (CheckConstraint(f"scope IN ({_one_of(Audience)})", "scope"), Index(None, "user_id", "id"))

    id: Mapped[Key]
    user_id: Mapped[UUID] = mapped_column(ForeignKey(User.id))
    url: Mapped[str]
    events: Mapped[list[str]] = mapped_column(ARRAY(Text))
    scope: Mapped[str]
    tag: Mapped[str | None]  # tells of jobs with this tag alone
    description: Mapped[str | None]
    secret: Mapped[str]
    enabled: Mapped[bool] = mapped_column(default=True)
    disabled_reason: Mapped[str | None] = mapped_column(default=None)  # where the service itself disabled it
    given_up: Mapped[int] = mapped_column(default=0)  # deliveries in a row
    created_at: Mapped[DatabaseTime]

    def enable(self, enabled: bool) -> None:
        """Switch it on, with its failures forgotten, or off."""
        self.enabled, self.disabled_reason, self.given_up = enabled, None, 0

    def count(self, delivery: "Delivery", error: str | None) -> bool:
        """Take note of a settled delivery; return whether too many in a row were given up, and so it is disabled."""
        if delivery.status == DeliveryStatus.DELIVERED:
            self.given_up = 0
        elif delivery.status == DeliveryStatus.FAILED:
            self.given_up += 1
            if self.enabled and self.given_up >= _GIVEN_UP_LIMIT:
                self.enabled = False
                self.disabled_reason = f"{self.given_up} deliveries in a row were given up. The last: {error}"
                return True
        return False


class Delivery(Base):
    """One event for one webhook; a ping has neither job nor transition.

    A sender claims it by counting `attempts` up, which fences its later writes, and moving `due_at` to the end of its
    lease: if the sender dies, the delivery is due again by itself.
    """

    __tablename__ = "deliveries"
    __table_args__ = (
        CheckConstraint(f"status IN ({_one_of(DeliveryStatus)})", "status"),
        Index(None, "webhook_id", "id"),
        Index("ix_deliveries_pending", "webhook_id", "job_id", "id", postgresql_where=text("status = 'pending'")),
        Index(None, "job_id"),
        Index(None, "created_at"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    webhook_id: Mapped[UUID] = mapped_column(ForeignKey(Webhook.id, ondelete="CASCADE"))
    event: Mapped[str]
    job_id: Mapped[UUID | None] = mapped_column(ForeignKey(Job.id, ondelete="CASCADE"), default=None)
    transition_id: Mapped[int | None] = mapped_column(BigInteger, default=None)  # of that job, and goes with it
    status: Mapped[str] = mapped_column(server_default=DeliveryStatus.PENDING.value)
    due_at: Mapped[DatabaseTime]
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    tries_before: Mapped[int] = mapped_column(server_default=text("0"))  # attempts before it was asked for again
    created_at: Mapped[DatabaseTime]

    @property
    def message_id(self) -> str:
        """What the receiver tells it by, in every try."""
        return f"msg_{self.webhook_id.hex}_{self.id}"

    def again(self) -> None:
        """Send it once more, now, with all its tries before it."""
        self.status, self.tries_before, self.due_at = DeliveryStatus.PENDING.value, self.attempts, database_now_plus(0)

    def settle(self, *, delivered: bool, tries: int, retry_seconds: float) -> None:
        """Take note of a try: delivered, given up after `tries`, or due again `retry_seconds` from now."""
        if delivered:
            self.status = DeliveryStatus.DELIVERED.value
        elif self.attempts - self.tries_before >= tries:
            self.status = DeliveryStatus.FAILED.value
        else:
            self.due_at = database_now_plus(retry_seconds)


class DeliveryAttempt(Base):
    """One try at a delivery: what the receiver answered, or why there was no answer."""

    __tablename__ = "delivery_attempts"

    delivery_id: Mapped[int] = mapped_column(ForeignKey(Delivery.id, ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    status_code: Mapped[int | None]
    error: Mapped[str | None]  # a sentence; null where it was delivered
    answer: Mapped[str | None]  # the beginning of the receiver's body, printable
    seconds: Mapped[float]
    at: Mapped[DatabaseTime]


def forget_old_deliveries() -> Delete:
    """Return the statement that deletes what is too old for the log, also where it was never delivered."""
    return delete(Delivery).where(Delivery.created_at < func.clock_timestamp() - _LOG_KEPT_FOR)
