"""The tables of sweeps: what was asked for, and the points that have been tried."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, CheckConstraint, Computed, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, DatabaseTime, Key
from models.sweep_spec import SweepSpec
from models.user import User


class SweepStatus(StrEnum):
    """Where a sweep is."""

    RUNNING = "running"  # points are still to be tried, or jobs of it have not ended
    ENDED = "ended"  # every point was tried and its job has ended, one way or the other
    CANCELLING = "cancelling"  # no more points are tried; jobs of it have not ended yet
    CANCELLED = "cancelled"  # ended by a person


class Sweep(Base):
    """A sweep; who adds a point to it, or stops a job of it, holds its row locked, and locks it before any job's."""

    __tablename__ = "sweeps"
    __table_args__ = (
        Index("ix_sweeps_open", "id", postgresql_where=text("ended_at IS NULL")),
        Index("ix_sweeps_user_id_id", "user_id", "id"),
    )

    id: Mapped[Key]
    user_id: Mapped[UUID] = mapped_column(ForeignKey(User.id))
    name: Mapped[str | None]
    # json, not jsonb: points are drawn in the order of the parameters as they were sent.
    request: Mapped[dict[str, Any]] = mapped_column(JSON())
    points: Mapped[int]  # how many there are to be
    # For lists: a request may have a megabyte of points, which is not to be read, let alone checked, to show these.
    objective: Mapped[str] = mapped_column(Computed("request ->> 'objective'", persisted=True))
    direction: Mapped[str] = mapped_column(Computed("request ->> 'direction'", persisted=True))
    max_concurrent: Mapped[int] = mapped_column(Computed("(request ->> 'max_concurrent')::integer", persisted=True))
    early_stop: Mapped[dict[str, Any] | None] = mapped_column(
        JSON(), Computed("request -> 'early_stop'", persisted=True)
    )
    created_at: Mapped[DatabaseTime]
    cancelled_at: Mapped[datetime | None] = mapped_column(default=None)
    ended_at: Mapped[datetime | None] = mapped_column(default=None)

    @classmethod
    def submit(cls, plan: SweepSpec, *, user_id: UUID) -> "Sweep":
        """Return a new sweep of this user for a prepared plan."""
        return cls(user_id=user_id, name=plan.name, request=plan.as_json(), points=plan.parameters.size)

    @property
    def plan(self) -> SweepSpec:
        """What was asked for, with every default and every seed."""
        return SweepSpec.model_validate(self.request)

    @property
    def status(self) -> SweepStatus:
        """Where the sweep is."""
        if self.cancelled_at is not None:
            return SweepStatus.CANCELLING if self.ended_at is None else SweepStatus.CANCELLED
        return SweepStatus.RUNNING if self.ended_at is None else SweepStatus.ENDED

    def cancel(self, now: datetime) -> bool:
        """Try no more points; return whether that changed anything. Its jobs are to be cancelled by the caller."""
        if self.ended_at is not None or self.cancelled_at is not None:
            return False
        self.cancelled_at = now
        return True

    def reopen(self) -> None:
        """Follow the jobs again: one of them is tried once more."""
        self.ended_at = None

    def end(self, now: datetime) -> None:
        """Close the sweep: every job of it has ended, and there will be no more."""
        self.ended_at = now


DELETED = "Its job was deleted."  # the refusal of a point whose job is gone


class SweepPoint(Base):
    """One point that was tried: its job, or, where the service could not accept its spec, why there is none."""

    __tablename__ = "sweep_points"
    __table_args__ = (CheckConstraint("(job_id IS NULL) <> (refusal IS NULL)", "job_or_refusal"),)

    sweep_id: Mapped[UUID] = mapped_column(ForeignKey(Sweep.id, ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)  # counted from 0 in the order of the points
    parameters: Mapped[dict[str, Any]] = mapped_column(JSON())
    job_id: Mapped[UUID | None] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), unique=True, default=None)
    refusal: Mapped[str | None] = mapped_column(default=None)
