"""What deleting a job means to others: who still needs one that has ended, and what a sweep keeps of its point."""

from collections.abc import Collection
from datetime import timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, Select, Text, Update, cast, func, or_, select, update
from sqlalchemy.orm import aliased

from models.job import FINAL, Job, Status
from models.records import Transition
from models.sweep import DELETED, Sweep, SweepPoint

_heir = aliased(Job)
# What is to begin with the weights of a job, and has not taken them yet.
_WAITS_FOR_WEIGHTS = (
    _heir.status.in_(sorted(set(Status) - FINAL)),  # not `not_in`: for these there is an index
    _heir.initial_weights.is_(None),
    _heir.spec["initial_checkpoint"]["job"].astext == cast(Job.id, Text),
)


def heir_of(job_id: UUID) -> Select[UUID]:
    """Select a job that is to begin with the weights of this one, and has not taken them yet."""
    return select(_heir.id).join(Job, Job.id == job_id).where(*_WAITS_FOR_WEIGHTS).order_by(_heir.id).limit(1)


def open_sweep_of(job_id: UUID) -> Select[UUID]:
    """Select the sweep of a job where it goes on: its next points depend on how this one did."""
    return select(Sweep.id).join(Job, Job.sweep_id == Sweep.id).where(Job.id == job_id, Sweep.ended_at.is_(None))


def may_go(after: timedelta) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions on `jobs` that one ended so long ago, by the database's clock, and nobody needs it."""
    until = func.clock_timestamp() - after
    ended_at = select(func.max(Transition.at)).where(Transition.job_id == Job.id).scalar_subquery()
    needed = or_(
        select(_heir.id).where(*_WAITS_FOR_WEIGHTS).exists(),
        select(Sweep.id).where(Sweep.id == Job.sweep_id, Sweep.ended_at.is_(None)).exists(),
    )
    # The first says no more than the second, but an index has it.
    return Job.status.in_(FINAL), Job.deleted_at.is_(None), Job.created_at < until, ended_at < until, ~needed


def let_points_go(job_ids: Collection[UUID]) -> Update:
    """Return the statement by which sweeps keep the points of deleted jobs, without them: none is tried once more."""
    return update(SweepPoint).where(SweepPoint.job_id.in_(job_ids)).values(job_id=None, refusal=DELETED)
