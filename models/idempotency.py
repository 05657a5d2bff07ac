"""The answers kept for requests that bore an idempotency key."""

from datetime import timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, Delete, ForeignKey, Index, delete, func
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, DatabaseTime

_KEPT_FOR = timedelta(hours=24)  # as Stripe keeps them


class IdempotentAnswer(Base):
    """The answer to a user's request, byte for byte, stored in the transaction of the change that it reports."""

    __tablename__ = "idempotent_answers"
    __table_args__ = (Index(None, "created_at"),)

    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[bytes]  # SHA-256 of the request's method, path and body, and of its sender's rights
    status: Mapped[int]
    media_type: Mapped[str]
    location: Mapped[str | None]
    body: Mapped[bytes]
    created_at: Mapped[DatabaseTime]


def is_kept() -> ColumnElement[bool]:
    """Return the condition that an answer is young enough to be given again, by the database's clock."""
    return IdempotentAnswer.created_at > func.clock_timestamp() - _KEPT_FOR


def forget_answer(user_id: UUID, location: str) -> Delete:
    """Return the statement that deletes what a user was answered when they made what is at this location."""
    return delete(IdempotentAnswer).where(IdempotentAnswer.user_id == user_id, IdempotentAnswer.location == location)


def forget_old_answers() -> Delete:
    """Return the statement that deletes what is no longer given again."""
    return delete(IdempotentAnswer).where(~is_kept())
