"""What an attempt writes to Postgres: each write locks the job's row under the fencing token first."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, sessionmaker

from models.errors import TrainyardError
from models.faults import FaultPoint, fault_point
from models.job import LIVE, Job, Status, database_now_plus, notification
from models.milestone import Reached, Step, reached
from models.pace import CPU, GpuUse, measured_seconds, record_pace, refresh_estimates
from models.predictions import Predictions
from models.reasons import OUT_OF_MEMORY, PREEMPTED
from models.records import Epoch, JobResult, LogChunk, Transition
from models.result import EpochMetrics, InitialWeights, essentials
from models.scores import score_epoch, score_test
from models.spec import InitialCheckpoint
from worker.leases import end_attempt, lose_attempt
from worker.messages import Predicted, SavedCheckpoint
from worker.metrics import EPOCH_SECONDS, LEASE_RENEWALS
from worker.queue import Claim
from worker.warm_start import Choice, choose, keep

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
        self._last_piece: int | None = None  # of the log, that is known to be committed
        self._has_started = False

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
        LEASE_RENEWALS.inc()

    def request(self) -> Literal["cancel", "pause", "preemption"] | None:
        """Return what the runner is asked to stop for, if for anything."""
        with self._sessions.begin() as session:
            found = session.execute(
                select(Job.status, Job.yields_to).where(
                    Job.id == self._claim.job_id, Job.attempt == self._claim.attempt, Job.status.in_(LIVE)
                )
            ).one_or_none()
        match found:
            case None:
                raise AttemptSuperseded("Another attempt has the job, or the job is over.")
            case (Status.CANCELLING, _):
                return "cancel"
            case (Status.PAUSING, _):
                return "pause"
            case (_, None):
                return None
        return "preemption"

    def initial_weights(self, initial: InitialCheckpoint, artifacts: Path) -> InitialWeights:
        """Return what the job begins with, chosen and kept once for all its attempts; raise InitialCheckpointLost.

        `artifacts` holds a directory for each job.
        """
        with self._sessions.begin() as session:
            chosen = session.get_one(Job, self._claim.job_id).initial_weights
        if chosen is not None:
            return InitialWeights.model_validate_json(json.dumps(chosen))

        def look() -> Choice:
            with self._sessions.begin() as session:
                return choose(session, initial)

        weights = keep(look, artifacts, artifacts / str(self._claim.job_id))
        with self._locked() as (_, job):
            job.initial_weights = weights.model_dump(mode="json")
        return weights

    def say(self, message: str) -> None:
        """Show what the runner does now; the first time, that it works."""
        with self._locked() as (session, job):
            if not self._has_started:
                seconds = {"claim_seconds": self._claim.claim_seconds}
                self._reach(session, Reached(Step.STARTED, data=seconds))
            if job.status == Status.RUNNING:
                job.message = message
                session.execute(notification(job.id))
        self._has_started = True

    def skip_checkpoint(self, checkpoint: SavedCheckpoint, why: str) -> None:
        """Record that a checkpoint was passed over for an older one, and the sentence that says why."""
        with self._locked(share=True) as (session, _):
            self._reach(session, Reached(Step.CHECKPOINT_SKIPPED, checkpoint.epoch, {"why": why}))

    def add_epoch(self, metrics: EpochMetrics, checkpoint: SavedCheckpoint) -> str | None:
        """Record an epoch once, and return the checkpoint's file of the best epoch now.

        An epoch that is repeated after a resume takes its own row again. What earlier attempts had recorded beyond it
        is overtaken, and goes: this attempt trains those epochs anew.
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
            self._reach(
                session,
                Reached(Step.EPOCH, metrics.epoch, {"seconds": metrics.seconds}),
                Reached(Step.CHECKPOINT, metrics.epoch, {"file": checkpoint.file, "sha256": checkpoint.sha256}),
            )
            session.execute(notification(job.id))
            best: str | None = session.scalar(_BEST_CHECKPOINT, {"job": job.id})
            fault_point(FaultPoint.EPOCH_TRANSACTION)
        EPOCH_SECONDS.observe(metrics.seconds)
        return best

    def checkpoint_files(self) -> set[str]:
        """Return the names of this attempt's checkpoints that epochs refer to; also when the attempt is over."""
        mine = (Epoch.job_id == self._claim.job_id, Epoch.attempt == self._claim.attempt)
        with self._sessions.begin() as session:
            return {file for file in session.scalars(select(Epoch.checkpoint).where(*mine)) if file is not None}

    def add_log(self, text: str) -> None:
        """Keep what the runner printed, once; beyond LOG_LIMIT the oldest pieces of the job's log go.

        Where the commit was not heard of, the same text is to be given again: a piece that is newer than the last one
        heard of is that text.
        """
        mine = (LogChunk.job_id == self._claim.job_id, LogChunk.attempt == self._claim.attempt)
        with self._locked(share=True) as (session, job):
            newest = session.scalar(select(func.max(LogChunk.id)).where(*mine))
            if newest == self._last_piece:
                piece = LogChunk(job_id=job.id, attempt=self._claim.attempt, text=text)
                session.add(piece)
                session.flush()
                newest = piece.id
                session.execute(delete(LogChunk).where(LogChunk.id.in_(_beyond_limit(job.id))))
        self._last_piece = newest

    def succeed(self, result: dict[str, Any], predictions: Predicted | None, gpu: GpuUse | None = None) -> None:
        """Store the result and the predictions and end the job, unless a cancel came first; `gpu` is what it took."""
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
            session.flush()  # may wait for jobs that depend on it, while nobody is kept from claiming yet
            _record_pace(session, job, result, gpu)
            self._end(session, job)
            fault_point(FaultPoint.FINAL_TRANSACTION)

    def fail(self, reason: str, message: str, *, retry_limit: int) -> None:
        """End the attempt without a result: the job goes back to the queue, or fails, as its rules say.

        Its epochs stay; `retry_limit` is the service's.
        """
        with self._locked() as (session, job):
            if self._cancelled(session, job):
                return
            lose_attempt(session, job, reason, message, retry_limit=retry_limit)
            self._end(session, job, outcome=reason)

    def retry_alone(self, message: str) -> None:
        """Return a job whose shared GPU had no more memory to the queue, for GPUs of its own; that is no loss."""
        with self._locked() as (session, job):
            if self._cancelled(session, job):
                return
            job.retry_alone(message)
            self._end(session, job, outcome=OUT_OF_MEMORY)

    def stop_at_checkpoint(self, message: str) -> None:
        """Pause the job, or return it to the queue for what `message` says; that is no loss, and not counted as one."""
        with self._locked() as (session, job):
            if self._cancelled(session, job):
                return
            job.stop_at_checkpoint(message)
            self._end(session, job, outcome=job.status if job.status == Status.PAUSED else PREEMPTED)

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

    def _reach(self, session: Session, *steps: Reached) -> None:
        session.execute(reached(self._claim.job_id, self._claim.attempt, steps))

    def _end(self, session: Session, job: Job, outcome: str | None = None) -> None:
        end_attempt(session, job.id, self._claim.attempt, outcome or job.status)
        session.execute(refresh_estimates([job.id]))  # of one that is queued again: fewer epochs are left
        session.execute(notification(job.id))


_BEST_CHECKPOINT = text(
    "SELECT checkpoint FROM epochs JOIN scores ON scores.job_id = epochs.job_id AND scores.best_epoch = epochs.epoch "
    "WHERE epochs.job_id = :job"
)
_DROP_OVERTAKEN = text(
    "DELETE FROM epochs WHERE job_id = :job AND attempt < :attempt AND epoch > :epoch RETURNING epoch"
)


def _record_pace(session: Session, job: Job, result: dict[str, Any], gpu: GpuUse | None) -> None:
    """Take the job into the pace of its like, on the device that it ended on."""
    if (seconds := measured_seconds(session, job)) is None:
        return
    epoch, other = seconds
    device = result["environment"]["gpu"] or CPU
    record_pace(session, job, device=device, epoch_seconds=epoch, other_seconds=other, gpu=gpu)


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
