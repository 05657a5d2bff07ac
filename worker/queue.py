"""Which job runs next: decided in Postgres, by its clock."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Any
from uuid import UUID

from sqlalchemy import Row, and_, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from models.demand import Demand
from models.faults import FaultPoint, fault_point
from models.forecast import Place, earliest_start, starts_sooner
from models.job import CHANNEL, LIVE, Job, Status, database_now_plus
from models.line import GpuRoom, Head, Offer, Passing, enter_line, fits, head_of_line
from models.records import Attempt
from models.share import NOW
from models.worker import Worker
from worker.messages import SavedCheckpoint
from worker.reservations import Reserved, drop_reservations, reserve, reserved_elsewhere
from worker.resumption import checkpoints, seconds_used

# The one move that is no method of the row: seven trips to the database and the bookkeeping of objects were half of a
# claim (docs/decisions/0002). Another attempt opens, under a lease, and its number fences every later write.
_TAKE = text(f"""
    WITH its_row AS (
        SELECT id FROM jobs WHERE id = :job AND status = '{Status.QUEUED}' AND unmet = 0 FOR UPDATE SKIP LOCKED
    ),
    taken AS (
        UPDATE jobs SET status = '{Status.RUNNING}', attempt = attempt + 1, reason = NULL,
            message = format('Runs on %s.', CAST(:worker AS text)), reserved_by = NULL, reserved_for = NULL,
            lease_expires_at = clock_timestamp() + make_interval(secs => :lease)
        FROM its_row WHERE jobs.id = its_row.id
        RETURNING jobs.id, user_id, attempt, spec, estimated_seconds, message
    ),
    opened AS (
        INSERT INTO attempts (job_id, number, worker, gpus, started_at)
        SELECT id, attempt, :worker, CAST(:gpus AS text[]), {NOW} FROM taken
    ),
    kept AS (
        INSERT INTO transitions (job_id, from_status, to_status, message, attempt)
        SELECT id, '{Status.QUEUED}', '{Status.RUNNING}', message, attempt FROM taken
    ),
    served AS (
        INSERT INTO shares (user_id, as_of, served_at, cpu_served_at)
        SELECT user_id, {NOW}, CASE WHEN :on_gpus THEN {NOW} END, CASE WHEN NOT :on_gpus THEN {NOW} END FROM taken
        ON CONFLICT (user_id) DO UPDATE SET served_at = coalesce(excluded.served_at, shares.served_at),
            cpu_served_at = coalesce(excluded.cpu_served_at, shares.cpu_served_at)
    )
    SELECT attempt, spec, estimated_seconds, pg_notify('{CHANNEL}', CAST(id AS text)) FROM taken
""").columns(spec=JSONB)  # noqa: S608 - names of this program
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
    claim_seconds: float = 0.0  # that the claim itself took, with its commit


# The GPUs for a job, none for one of the CPU, where these are left alone; None: it does not fit.
Allocate = Callable[[Demand, Collection[str]], tuple[str, ...] | None]


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
        if not fits(offer, head.demand):
            return turn.take_beside(head)
        if (claim := turn.take(head)) is not None:
            if head.others_reserved:
                drop_reservations(session, worker)
            return claim
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

    @cached_property
    def place(self) -> Place:
        """This worker as a forecast sees it."""
        return self.offer.place(self.worker)

    def heads(self, room: GpuRoom, passing: Passing | None = None, passed: Sequence[UUID] = ()) -> Iterator[Head]:
        """Yield the first in line that fits the room, then the one that is first without it, and so on for some.

        Those that are left to other workers are passed over, all of them in one step.
        """
        seen, has_asked = list(passed), passing is not None  # what fits now passes, whoever else is held for it
        for _ in range(_TRIES):
            head = self._first(room, passing, seen)
            if head is not None and head.reserved_by not in (None, self.worker) and not has_asked:
                has_asked = True
                seen += self._left_to_others()
                if head.id in seen:
                    head = self._first(room, passing, seen)
            if head is None:
                return
            yield head
            seen.append(head.id)

    def _first(self, room: GpuRoom, passing: Passing | None, passed: Sequence[UUID]) -> Head | None:
        return head_of_line(
            self.session, self.offer.queues, room, passed=passed, passing=passing, ahead_seconds=self.ahead_seconds
        )

    def _left_to_others(self) -> list[UUID]:
        """Return the jobs that other workers are held for, and that this one could start neither now nor sooner."""
        return [
            reserved.id
            for reserved in reserved_elsewhere(self.session, self.worker, ahead_seconds=self.ahead_seconds)
            if not fits(self.offer, reserved.demand) and not self._starts_sooner(reserved)
        ]

    def _starts_sooner(self, reserved: Reserved) -> bool:
        here, there = earliest_start(self.place, reserved.demand), reserved.starts_in
        return starts_sooner(inf if here is None else here, inf if there is None else there)

    def take(self, head: Head, spared: Collection[str] = ()) -> Claim | None:
        """Claim this job, and leave these GPUs alone; None where somebody else holds its row, or has changed it."""
        gpus = self.allocate(head.demand, spared)
        if gpus is None:
            return None
        values = {
            "job": head.id,
            "worker": self.worker,
            "gpus": list(gpus),
            "on_gpus": bool(gpus),
            "lease": self.lease_seconds,
            "ahead": self.ahead_seconds,
        }
        taken = self.session.execute(_TAKE, values).one_or_none()
        if taken is None:
            return None
        fault_point(FaultPoint.CLAIM)
        return _claim_of(self.session, head.id, taken, head.demand, gpus)

    def take_beside(self, head: Head) -> Claim | None:
        """Reserve this worker for a job, and claim one that takes nothing that it could use, or ends before it starts.

        The job that it waits for leaves it a slot with the GPU: one of the CPU may have the last slot until then.
        """
        starts_in = earliest_start(self.place, head.demand)
        reserve(self.session, self.worker, head, starts_in, ahead_seconds=self.ahead_seconds)
        before = starts_in or 0.0
        slot_beside = self.offer.free_slots > 1 or any(running.gpus for running in self.offer.running)
        spared = self.place.usable_by(head.demand)
        beside = self.offer.beside(spared)
        passing = Passing(on_cpu=inf if slot_beside else before, on_gpus=before, beside=beside)
        claims = (
            self.take(other, spared if beside.takes(other.demand) else ())
            for other in self.heads(self.offer.now, passing, passed=[head.id])
        )
        return next((claim for claim in claims if claim is not None), None)


def claim_unheard_of(session: Session, *, worker: str, held: Collection[UUID], lease_seconds: float) -> Claim | None:
    """Return, with a new lease, the claim that this worker's process committed and never heard of; None without one.

    `held` are the jobs of the claims that it knows. A claim that is still being committed is waited for, as it has the
    turn. What was claimed before the process took the worker's name was another's.
    """
    enter_line(session)
    found = session.execute(
        select(Job, Attempt.gpus)
        .join(Attempt, and_(Attempt.job_id == Job.id, Attempt.number == Job.attempt))
        .join(Worker, Worker.name == Attempt.worker)
        .where(Job.status.in_(LIVE), Worker.name == worker, Attempt.started_at >= Worker.started_at)
        .where(Job.id.not_in(held))
        .limit(1)
        .with_for_update(of=Job)
    ).first()
    if found is None:
        return None
    job, gpus = found
    job.lease_expires_at = database_now_plus(lease_seconds)
    demand = Demand(job.device, job.gpus, job.gpu_memory_bytes, job.exclusive)
    return _claim_of(session, job.id, job, demand, tuple(gpus))


def _claim_of(session: Session, job_id: UUID, row: Job | Row[Any], demand: Demand, gpus: tuple[str, ...]) -> Claim:
    """Return the claim of an attempt that has begun, with what earlier ones have left; `row` has the job's columns."""
    again = session.get_one(Job, job_id) if row.attempt > 1 else None
    return Claim(
        job_id=job_id,
        attempt=row.attempt,
        spec=row.spec,
        demand=demand,
        gpus=gpus,
        estimated_seconds=row.estimated_seconds,
        seconds_used=seconds_used(session, again) if again else 0.0,
        checkpoints=checkpoints(session, again) if again else [],
    )
