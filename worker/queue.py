"""Which job runs next, and which attempts have lost their worker: decided in Postgres, by its clock."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from models.job import LIVE, Attempt, Epoch, Job, Status, notification
from worker.messages import CHECKPOINTS_KEPT, SavedCheckpoint

log = structlog.get_logger(__name__)

WORKER_LOST = "worker_lost"


@dataclass(frozen=True)
class Claim:
    """An attempt that this worker holds: `attempt` is the fencing token that each of its writes carries."""

    job_id: UUID
    attempt: int
    spec: dict[str, Any]
    seconds_used: float  # by earlier attempts
    checkpoints: list[SavedCheckpoint]  # newest first


def claim_next(
    session: Session, *, worker: str, queues: Sequence[str], devices: Sequence[str], lease_seconds: float
) -> Claim | None:
    """Take the oldest queued job that this worker can run; two workers never get the same one."""
    job = session.scalar(
        select(Job)
        .where(Job.status == Status.QUEUED, Job.queue.in_(queues), Job.spec["resources"]["device"].astext.in_(devices))
        .order_by(Job.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    if job is None:
        return None
    claim = Claim(
        job_id=job.id,
        attempt=job.attempt + 1,
        spec=job.spec,
        seconds_used=_seconds_used(session, job.id),
        checkpoints=_checkpoints(session, job.id),
    )
    job.start_attempt(worker, lease_seconds)
    session.execute(notification(job.id))
    return claim


def expire_leases(session: Session, *, retry_limit: int) -> list[UUID]:
    """Take every attempt whose lease has run out from its worker; return the jobs.

    The rows are locked as they are found, so a lease renewed in between is not expired, and two reapers never meet.
    """
    jobs = session.scalars(
        select(Job)
        .where(Job.status.in_(LIVE), Job.lease_expires_at < func.clock_timestamp())
        .with_for_update(skip_locked=True)
    ).all()
    for job in jobs:
        log.warning("lease_expired", job=str(job.id), attempt=job.attempt)
        job.lose_attempt(WORKER_LOST, "The worker was lost.", retry_limit=retry_limit)
        end_attempt(session, job.id, job.attempt, WORKER_LOST)
        session.execute(notification(job.id))
    return [job.id for job in jobs]


def end_attempt(session: Session, job_id: UUID, attempt: int, outcome: str) -> None:
    """Close an attempt, by the database's clock."""
    session.execute(
        update(Attempt)
        .where(Attempt.job_id == job_id, Attempt.number == attempt, Attempt.ended_at.is_(None))
        .values(ended_at=func.clock_timestamp(), outcome=outcome)
    )


def queues_with_work(session: Session) -> Sequence[str]:
    """Return the queues in which a job waits."""
    return session.scalars(select(Job.queue).where(Job.status == Status.QUEUED).distinct()).all()


def _seconds_used(session: Session, job_id: UUID) -> float:
    used = func.sum(func.extract("epoch", Attempt.ended_at - Attempt.started_at))
    return float(session.scalar(select(func.coalesce(used, 0)).where(Attempt.job_id == job_id)) or 0)


def _checkpoints(session: Session, job_id: UUID) -> list[SavedCheckpoint]:
    rows = session.scalars(
        select(Epoch)
        .where(Epoch.job_id == job_id, Epoch.checkpoint.is_not(None))
        # The newest attempt first: one that began anew has overtaken what it could not use.
        .order_by(Epoch.attempt.desc(), Epoch.epoch.desc())
        .limit(CHECKPOINTS_KEPT)
    )
    return [
        SavedCheckpoint(epoch=row.epoch, file=row.checkpoint or "", sha256=row.checkpoint_sha256 or "") for row in rows
    ]
