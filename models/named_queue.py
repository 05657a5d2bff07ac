"""Named queues: one exists by being named in a spec; it has a row once an admin has paused it."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from models.base import Base
from models.job import Job, Status
from models.user import User


class NamedQueue(Base):
    """What an admin has said of a queue; nothing is claimed from a paused one, and what runs goes on."""

    __tablename__ = "queues"

    name: Mapped[str] = mapped_column(primary_key=True)
    paused_at: Mapped[datetime | None] = mapped_column(default=None)
    paused_by: Mapped[UUID | None] = mapped_column(ForeignKey(User.id), default=None)


def queues_with_work(session: Session) -> Sequence[str]:
    """Return the queues in which a job waits."""
    return session.scalars(select(Job.queue).where(Job.status == Status.QUEUED).distinct()).all()
