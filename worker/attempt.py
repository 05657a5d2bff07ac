"""What an attempt writes to Postgres: each write locks the job's row under the fencing token first."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, sessionmaker

from models.errors import TrainyardError
from models.job import (
    LIVE,
    Epoch,
    Job,
    JobResult,
    LogChunk,
    Status,
    Transition,
    database_now_plus,
    notification,
)
from models.predictions import Predictions
from models.result import EpochMetrics, essentials
from models.scores import score_epoch, score_test
from worker.messages import Predicted, SavedCheckpoint
from worker.queue import Claim, end_attempt

LOG_LIMIT = 1_048_576  # characters of log kept per job, the newest


class AttemptSuperseded(TrainyardError):
    """The attempt is over: its lease ran out, or the job ended; nothing it says is recorded any more."""

    code = "attempt_superseded"


class AttemptRecord:
    """The database's side of one attempt; every method is one transaction and raises AttemptSuperseded."""

    def __init__(self, sessions: sessionmaker[Session], claim: Claim) -> None:
        """Write through `sessions` in the name of `claim`."""
        self._sessions = sessions
        self._claim = claim

    def renew(self, lease_seconds: float) -> None:
        """Hold the lease for `lease_seconds` more, by the database's clock."""
        with self._sessions.begin() as session:
            renewed = session.execute(
                update(Job)
                .where(Job.id == self._claim.job_id, Job.attempt == self._claim.attempt, Job.status.in_(LIVE))
                .values(lease_expires_at=database_now_plus(lease_seconds))
                .returning(Job.id)
            )
            if renewed.first() is None:
                raise AttemptSuperseded("The lease is lost.")

    def status(self) -> Status:
        """Return the job's status, so that a request to stop is seen."""
        with self._sessions.begin() as session:
            status = session.scalar(
                select(Job.status).where(Job.id == self._claim.job_id, Job.attempt == self._claim.attempt)
            )
        if status not in LIVE:
            raise AttemptSuperseded("Another attempt has the job, or the job is over.")
        return Status(status)

    def say(self, message: str) -> None:
        """Show what the runner does now."""
        with self._locked() as (session, job):
            if job.status == Status.RUNNING:
                job.message = message
                session.execute(notification(job.id))

    def add_epoch(self, metrics: EpochMetrics, checkpoint: SavedCheckpoint) -> None:
        """Record an epoch once; an epoch that is repeated after a resume takes its own row again.

        What earlier attempts had recorded beyond it is overtaken, and goes: this attempt trains those epochs anew.
        """
        values = metrics.model_dump(exclude={"train_seconds"}) | {
            "job_id": self._claim.job_id,
            "attempt": self._claim.attempt,
            "checkpoint": checkpoint.file,
            "checkpoint_sha256": checkpoint.sha256,
            "recorded_at": func.clock_timestamp(),
        }
        with self._locked(share=True) as (session, job):
            session.execute(
                insert(Epoch).values(values).on_conflict_do_update(index_elements=["job_id", "epoch"], set_=values)
            )
            beyond = {"job": job.id, "attempt": self._claim.attempt, "epoch": metrics.epoch}
            overtaken = session.execute(_DROP_OVERTAKEN, beyond).first() is not None
            score_epoch(session, job.id, metrics.epoch, others_went=overtaken)
            session.execute(notification(job.id))

    def add_log(self, text: str) -> None:
        """Keep what the runner printed; beyond LOG_LIMIT the oldest pieces of the job's log go."""
        with self._locked(share=True) as (session, job):
            session.add(LogChunk(job_id=job.id, attempt=self._claim.attempt, text=text))
            session.flush()
            session.execute(delete(LogChunk).where(LogChunk.id.in_(_beyond_limit(job.id))))

    def succeed(self, result: dict[str, Any], predictions: Predicted | None) -> None:
        """Store the result and the predictions and end the job, unless a cancel came first."""
        with self._locked() as (session, job):
            if self._cancelled(session, job):
                return
            queued, total = _waiting_and_total(session, job)
            result["timing"] |= {"queued_seconds": queued, "total_seconds": total}
            session.add(
                JobResult(job_id=job.id, attempt=self._claim.attempt, body=result, essentials=essentials(result))
            )
            if predictions is not None:
                session.add(Predictions.of(job.id, self._claim.attempt, **predictions.model_dump()))
            accuracy = result["accuracy"]["test"] if result["accuracy"] else None
            score_test(session, job.id, accuracy=accuracy, loss=result["loss"]["test"])
            job.move(Status.SUCCEEDED)
            self._end(session, job)

    def fail(self, reason: str, message: str) -> None:
        """End the job without a result; its epochs stay."""
        with self._locked() as (session, job):
            if self._cancelled(session, job):
                return
            job.move(Status.FAILED, reason=reason, message=message)
            self._end(session, job)

    def give_back(self, reason: str, message: str, *, retry_limit: int) -> None:
        """Return the job to the queue because its runner or worker is gone, or fail it beyond the limit."""
        with self._locked() as (session, job):
            if self._cancelled(session, job):
                return
            job.lose_attempt(reason, message, retry_limit=retry_limit)
            self._end(session, job, outcome=reason)

    def preempt(self, message: str) -> None:
        """Return the job to the queue because the worker shuts down; that is no loss, and not counted as one."""
        with self._locked() as (session, job):
            if self._cancelled(session, job):
                return
            job.move(Status.QUEUED, reason="preempted", message=message)
            self._end(session, job, outcome="preempted")

    @contextmanager
    def _locked(self, *, share: bool = False) -> Iterator[tuple[Session, Job]]:
        """Open a transaction that holds the job's row, if it is still this attempt's.

        Checking without the lock would let a worker that lost its lease commit after its successor's claim.
        """
        with self._sessions.begin() as session:
            job = session.scalar(
                select(Job)
                .where(Job.id == self._claim.job_id, Job.attempt == self._claim.attempt, Job.status.in_(LIVE))
                .with_for_update(read=share)
            )
            if job is None:
                raise AttemptSuperseded("Another attempt has the job, or the job is over.")
            yield session, job

    def _cancelled(self, session: Session, job: Job) -> bool:
        """End a job whose cancel was asked for before its end; return whether that was so."""
        if job.status != Status.CANCELLING:
            return False
        job.end_cancelled()
        self._end(session, job)
        return True

    def _end(self, session: Session, job: Job, outcome: str | None = None) -> None:
        end_attempt(session, job.id, self._claim.attempt, outcome or job.status)
        session.execute(notification(job.id))


_DROP_OVERTAKEN = text(
    "DELETE FROM epochs WHERE job_id = :job AND attempt < :attempt AND epoch > :epoch RETURNING epoch"
)


def _beyond_limit(job_id: UUID) -> Any:
    newest_first = func.sum(func.length(LogChunk.text)).over(order_by=LogChunk.id.desc())
    sizes = select(LogChunk.id, newest_first.label("size")).where(LogChunk.job_id == job_id).subquery()
    return select(sizes.c.id).where(sizes.c.size > LOG_LIMIT)


def _waiting_and_total(session: Session, job: Job) -> tuple[float, float]:
    """Return the seconds that the job stood in the queue and those since its submission, by the database's clock."""
    until = func.coalesce(func.lead(Transition.at).over(order_by=Transition.id), func.clock_timestamp())
    spans = (
        select(Transition.to_status, func.extract("epoch", until - Transition.at).label("seconds"))
        .where(Transition.job_id == job.id)
        .subquery()
    )
    queued = func.coalesce(func.sum(spans.c.seconds).filter(spans.c.to_status == Status.QUEUED), 0)
    row = session.execute(select(queued, func.sum(spans.c.seconds))).one()
    return float(row[0]), float(row[1])
