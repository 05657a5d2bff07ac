"""Which attempts have lost their worker, and how an attempt is closed: decided in Postgres, by its clock."""

from collections.abc import Callable
from datetime import datetime
from math import inf
from uuid import UUID

import structlog
from sqlalchemy import Float, cast, func, select, update
from sqlalchemy.orm import Session

from models.faults import FaultPoint, fault_point
from models.job import LIVE, Job, Status, database_now_plus, notification
from models.milestone import Reached, Step, reached
from models.pace import refresh_estimates
from models.reasons import WORKER_LOST
from models.records import Attempt
from models.share import charge

log = structlog.get_logger(__name__)


def expire_leases(
    session: Session, *, retry_limit: int, lease_seconds: float, in_touch_seconds: Callable[[], float] = lambda: inf
) -> list[UUID]:
    """Take every attempt whose lease has run out from its worker; return the jobs.

    The rows are locked as they are found, so a lease renewed in between is not expired, and two reapers never meet. No
    lease counts as run out before the caller was in touch with the jobs for `lease_seconds`: until then the workers may
    have had no chance to renew. The caller is asked once the rows are found: who had to wait for them knows more then.
    """
    now = func.statement_timestamp()  # what is spent in waiting for the table is not the workers' fault
    jobs = session.scalars(
        select(Job)
        .where(Job.status.in_(LIVE), Job.lease_expires_at < now)
        .order_by(Job.user_id)  # whose shares are charged: two reapers do not wait for each other
        .with_for_update(skip_locked=True)
    ).all()
    if in_touch_seconds() < lease_seconds:
        return []
    if jobs:
        fault_point(FaultPoint.EXPIRY)
    for job in jobs:
        log.warning("lease_expired", job=str(job.id), attempt=job.attempt)
        lease_end = job.lease_expires_at
        lose_attempt(session, job, WORKER_LOST, "The worker was lost.", retry_limit=retry_limit)
        end_attempt(session, job.id, job.attempt, WORKER_LOST, at=lease_end)
        session.execute(notification(job.id))
    if jobs:
        session.execute(refresh_estimates([job.id for job in jobs]))
    return [job.id for job in jobs]


def lose_attempt(session: Session, job: Job, reason: str, message: str, *, retry_limit: int) -> None:
    """Do as `Job.lose_attempt`; where a lost worker is not what the move is called for, it is an event before it."""
    with session.no_autoflush:  # the move's id is to be the greater one
        job.lose_attempt(reason, message, retry_limit=retry_limit)
        if reason == WORKER_LOST and job.status != Status.QUEUED:
            session.execute(reached(job.id, job.attempt, [Reached(Step.LEASE_LOST)]))


def end_attempt(
    session: Session,
    job_id: UUID,
    attempt: int,
    outcome: str,
    *,
    at: datetime | None = None,
    ahead_seconds: float = 0.0,
) -> None:
    """Close an attempt, by the database's clock, and charge its user for it: each GPU for all of its time.

    `at` is when it ended that is over for longer: nobody ran it between the end of its lease and its discovery.
    """
    seconds = func.greatest(0, func.extract("epoch", Attempt.ended_at - Attempt.started_at))
    user = select(Job.user_id).where(Job.id == Attempt.job_id).scalar_subquery()
    ended = session.execute(
        update(Attempt)
        .where(Attempt.job_id == job_id, Attempt.number == attempt, Attempt.ended_at.is_(None))
        .values(ended_at=database_now_plus(ahead_seconds) if at is None else at, outcome=outcome)
        .returning(user, Attempt.gpus, cast(seconds, Float))
        .execution_options(synchronize_session=False)
    ).first()
    if ended is None:
        return
    user_id, gpus, used = ended
    charge(
        session,
        user_id,
        gpu_seconds=used * len(gpus),
        cpu_seconds=0.0 if gpus else used,
        ahead_seconds=ahead_seconds,
    )
