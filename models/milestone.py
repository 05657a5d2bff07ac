"""What an attempt did beside moving its job: that its runner began, its epochs and their checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, DatabaseTime


class Step(StrEnum):
    """What an attempt can have done."""

    STARTED = "started"  # its runner works
    EPOCH = "epoch"  # an epoch is recorded
    CHECKPOINT = "checkpoint"  # its checkpoint is on disk
    CHECKPOINT_SKIPPED = "checkpoint_skipped"  # a checkpoint that it found damaged or missing was not used
    LEASE_LOST = "lease_lost"  # its worker was lost, and the job does not wait for another one for that


class Milestone(Base):
    """One thing that an attempt did; nothing here is ever changed, also where a later attempt repeats the epoch.

    Together with the transitions these rows are a job's events. Both tables take their ids from one sequence, and both
    are written under a lock on the job's row: of one job, who has seen an id has seen all before it.
    """

    __tablename__ = "milestones"
    __table_args__ = (
        Index(None, "job_id", "id"),
        # A write that is repeated because nobody heard of its commit adds nothing.
        UniqueConstraint("job_id", "attempt", "type", "epoch", postgresql_nulls_not_distinct=True),
    )

    id: Mapped[int] = mapped_column(
        BigInteger, server_default=text("nextval('transitions_id_seq')"), primary_key=True, autoincrement=False
    )
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    attempt: Mapped[int]
    type: Mapped[str]
    epoch: Mapped[int | None] = mapped_column(default=None)
    data: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    at: Mapped[DatabaseTime]


@dataclass(frozen=True)
class Reached:
    """A step that an attempt made, at this epoch where it has one, and what is to be known of it."""

    step: Step
    epoch: int | None = None
    data: dict[str, Any] = field(default_factory=dict)


def reached(job_id: UUID, attempt: int, steps: Sequence[Reached]) -> Insert:
    """Return the statement that keeps these steps, each once; the job's row is to be locked before."""
    rows = [
        {"job_id": job_id, "attempt": attempt, "type": one.step.value, "epoch": one.epoch, "data": one.data}
        for one in steps
    ]
    return insert(Milestone).values(rows).on_conflict_do_nothing()
