"""Which job runs next, and which attempts have lost their worker: decided in Postgres, by its clock."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Float, cast, func, select, update
from sqlalchemy.orm import Session

from models.demand import Demand
from models.forecast import earliest_start
from models.job import LIVE, Attempt, Job, Status, database_now_plus, notification
from models.line import GpuRoom, Head, Offer, Passing, enter_line, fits, head_of_line
from models.pace import refresh_estimates
from models.share import charge, serve
from worker.messages import SavedCheckpoint
from worker.reservations import drop_reservations, holds_elsewhere, reserve
from worker.resumption import checkpoints, seconds_used

log = structlog.get_logger(__name__)

WORKER_LOST = "worker_lost"
_TRIES = 8  # jobs at the head of the line that somebody else may hold locked just now


@dataclass(frozen=True)
class Claim:
    """An attempt that this worker holds: `attempt` is the fencing token that each of its writes carries."""

    job_id: UUID
    attempt: int
    spec: dict[str, Any]
    demand: Demand
    gpus: tuple[str, ...]  # UUIDs of those that it got; none: it runs on the CPU
    estimated_seconds: float | None  # from start to end; None: nobody knows
    seconds_used: float  # by earlier attempts, since the last retry
    checkpoints: list[SavedCheckpoint]  # newest first


Allocate = Callable[[Demand], tuple[str, ...] | None]


def claim_next(
    session: Session,
    *,
    worker: str,
    offer: Offer,
    allocate: Allocate,
    lease_seconds: float,
    ahead_seconds: float = 0.0,
) -> Claim | None:
    """Take the job that is next in line for what this worker offers; two workers never get the same one.

    `allocate` chooses the GPUs for what fits the offer. The first in line that this worker could run, but not now, gets
    a reservation here; then the claim is of a job that does not delay it. No other claim is decided until the
    transaction ends. A simulation lets the database's clock be `ahead_seconds` ahead.
    """
    if offer.free_slots < 1:
        return None
    enter_line(session)
    turn = _Turn(session, worker, offer, allocate, lease_seconds, ahead_seconds)
    for head in turn.heads(offer.at_most):
        if fits(offer, head.demand):
            if (claim := turn.take(head)) is not None:
                if head.any_reserved:
                    drop_reservations(session, worker)
                return claim
        elif not holds_elsewhere(session, head, worker):
            return turn.take_beside(head)
    drop_reservations(session, worker)
    return None


@dataclass(frozen=True)
class _Turn:
    """One worker's turn to claim, while no other has one."""

    session: Session
    worker: str
    offer: Offer
    allocate: Allocate
    lease_seconds: float
    ahead_seconds: float

    def heads(self, room: GpuRoom, passing: Passing | None = None, passed: Sequence[UUID] = ()) -> Iterator[Head]:
        """Yield the first in line that fits the room, then the one that is first without it, and so on for some."""
        seen = list(passed)
        for _ in range(_TRIES):
            head = head_of_line(
                self.session,
                self.offer.queues,
                room,
                passed=seen,
                passing=passing,
                ahead_seconds=self.ahead_seconds,
            )
            if head is None:
                return
            yield head
            seen.append(head.id)

    def take(self, head: Head) -> Claim | None:
        """Claim this job; None where somebody else holds its row, or has changed it since."""
        its_row = select(Job).where(Job.id == head.id, Job.status == Status.QUEUED, Job.unmet == 0)
        job = self.session.scalar(its_row.with_for_update(skip_locked=True))
        gpus = None if job is None else self.allocate(head.demand)
        if job is None or gpus is None:
            return None
        again = job.attempt > 0
        claim = Claim(
            job_id=job.id,
            attempt=job.attempt + 1,
            spec=job.spec,
            demand=head.demand,
            gpus=gpus,
            estimated_seconds=job.estimated_seconds,
            seconds_used=seconds_used(self.session, job) if again else 0.0,
            checkpoints=checkpoints(self.session, job) if again else [],
        )
        job.start_attempt(self.worker, self.lease_seconds, gpus=gpus, ahead_seconds=self.ahead_seconds)
        serve(self.session, job.user_id, ahead_seconds=self.ahead_seconds)
        self.session.execute(notification(job.id))
        return claim

    def take_beside(self, head: Head) -> Claim | None:
        """Reserve this worker for a job, and claim one that takes nothing of what that needs, or ends before it starts.

        The job that it waits for leaves it a slot with the GPU: one of the CPU may have the last slot until then.
        """
        starts_in = earliest_start(self.offer.place(self.worker), head.demand)
        reserve(self.session, self.worker, head, starts_in)
        before = starts_in or 0.0
        slot_beside = self.offer.free_slots > 1 or any(running.gpus for running in self.offer.running)
        passing = Passing(on_cpu=inf if slot_beside else before, on_gpus=before)
        claims = (self.take(other) for other in self.heads(self.offer.now, passing, passed=[head.id]))
        return next((claim for claim in claims if claim is not None), None)


def expire_leases(session: Session, *, retry_limit: int) -> list[UUID]:
    """Take every attempt whose lease has run out from its worker; return the jobs.

    The rows are locked as they are found, so a lease renewed in between is not expired, and two reapers never meet.
    """
    jobs = session.scalars(
        select(Job)
        .where(Job.status.in_(LIVE), Job.lease_expires_at < func.clock_timestamp())
        .order_by(Job.user_id)  # whose shares are charged: two reapers do not wait for each other
        .with_for_update(skip_locked=True)
    ).all()
    for job in jobs:
        log.warning("lease_expired", job=str(job.id), attempt=job.attempt)
        job.lose_attempt(WORKER_LOST, "The worker was lost.", retry_limit=retry_limit)
        end_attempt(session, job.id, job.attempt, WORKER_LOST)
        session.execute(notification(job.id))
    if jobs:
        session.execute(refresh_estimates([job.id for job in jobs]))
    return [job.id for job in jobs]


def end_attempt(session: Session, job_id: UUID, attempt: int, outcome: str, *, ahead_seconds: float = 0.0) -> None:
    """Close an attempt, by the database's clock, and charge its user for it: each GPU for all of its time."""
    seconds = func.greatest(0, func.extract("epoch", Attempt.ended_at - Attempt.started_at))
    user = select(Job.user_id).where(Job.id == Attempt.job_id).scalar_subquery()
    ended = session.execute(
        update(Attempt)
        .where(Attempt.job_id == job_id, Attempt.number == attempt, Attempt.ended_at.is_(None))
        .values(ended_at=database_now_plus(ahead_seconds), outcome=outcome)
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


def queues_with_work(session: Session) -> Sequence[str]:
    """Return the queues in which a job waits."""
    return session.scalars(select(Job.queue).where(Job.status == Status.QUEUED).distinct()).all()
