"""Reservations: each worker is held for at most one waiting job, the first in line that it could run but not now."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import BindParameter, Float, Uuid, bindparam, cast, func, or_, select, update
from sqlalchemy.orm import Session

from models.demand import Demand
from models.forecast import TOLERANCE_SECONDS, still_to_go
from models.job import Job, Status
from models.line import Head
from models.worker import Worker, WorkerState


@dataclass(frozen=True)
class Reserved:
    """A job that a worker is held for, and the seconds until it starts there, of which None: nobody knows."""

    id: UUID
    demand: Demand
    starts_in: float | None


def reserved_elsewhere(session: Session, worker: str, *, ahead_seconds: float = 0.0) -> list[Reserved]:
    """Return the jobs that other workers, which take jobs, are held for."""
    return [
        Reserved(
            row.id,
            Demand(row.device, row.gpus, row.gpu_memory_bytes, row.exclusive),
            None if row.starts_in is None else still_to_go(row.starts_in - ahead_seconds),
        )
        for row in session.execute(_RESERVED_ELSEWHERE, {"worker": worker})
    ]


def reserve(session: Session, worker: str, head: Head, starts_in: float | None, *, ahead_seconds: float = 0.0) -> None:
    """Hold a worker for this job alone, which is expected to start in so many seconds (None: nobody knows)."""
    if head.others_reserved:
        drop_reservations(session, worker, but=head)
    starts_in = None if starts_in is None else starts_in + ahead_seconds
    if not _is_held(head, worker, starts_in):
        session.execute(_RESERVE, {"job_id": head.id, "worker": worker, "starts_in": starts_in})


def drop_reservations(session: Session, worker: str, *, but: Head | None = None) -> None:
    """Let go of all other jobs that this worker is held for, or one that is gone or takes no more jobs."""
    session.execute(_DROP, {"worker": worker, "kept": but.id if but is not None else None})


def _is_held(head: Head, worker: str, starts_in: float | None) -> bool:
    """Tell whether all of that is known: not each time a worker looks for work is worth a new version of the row."""
    if head.reserved_by != worker or head.starts_in is None or starts_in is None:
        return head.reserved_by == worker and head.starts_in is starts_in
    return abs(head.starts_in - starts_in) <= TOLERANCE_SECONDS


# Rows that somebody else is writing to are left alone: a claim must not wait for them, and the next one comes soon.
_TAKES_JOBS = select(Worker.name).where(Worker.state() == WorkerState.ONLINE)
_WORKER: BindParameter[str] = bindparam("worker")
_starts_in = cast(func.extract("epoch", Job.reserved_for - func.clock_timestamp()), Float).label("starts_in")
_RESERVED_ELSEWHERE = select(Job.id, Job.device, Job.gpus, Job.gpu_memory_bytes, Job.exclusive, _starts_in).where(
    Job.reserved_by.is_not(None), Job.reserved_by != _WORKER, Job.reserved_by.in_(_TAKES_JOBS)
)
_STARTS_AT = func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, bindparam("starts_in", type_=Float))
_first = (
    select(Job.id)
    .where(Job.id == bindparam("job_id"), Job.status == Status.QUEUED)
    .with_for_update(skip_locked=True, of=Job)
    .cte("first")
)
_RESERVE = update(Job).where(Job.id == _first.c.id).values(reserved_by=_WORKER, reserved_for=_STARTS_AT)
_dropped = (
    select(Job.id)
    .where(
        Job.reserved_by.is_not(None),
        Job.id.is_distinct_from(bindparam("kept", type_=Uuid)),
        or_(Job.reserved_by == _WORKER, Job.reserved_by.not_in(_TAKES_JOBS)),
    )
    .with_for_update(skip_locked=True, of=Job)
    .cte("dropped")
)
_DROP = update(Job).where(Job.id == _dropped.c.id).values(reserved_by=None, reserved_for=None)
