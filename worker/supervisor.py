"""The supervisor of one attempt: starts the runner, holds the lease, relays requests, and records what comes of it."""

import signal
import time
from collections import deque
from multiprocessing.context import ForkServerContext
from threading import Event as Flag

import structlog
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from models.job import Status
from models.spec import JobSpec
from worker.attempt import AttemptRecord, AttemptSuperseded
from worker.kept_checkpoints import KeptCheckpoints
from worker.messages import Assignment, EpochEnded, Event, Failed, Phase, Succeeded
from worker.queue import WORKER_LOST, Claim
from worker.runner_process import OUTPUT_LIMIT, RunnerProcess
from worker.settings import WorkerSettings

log = structlog.get_logger(__name__)

CONTROL_SECONDS = 0.25  # how often a request to stop is looked for
STOP_GRACE_SECONDS = 0.75  # a cancel must free the slot within two seconds
LOG_SECONDS = 1.0  # output is gathered this long before it is stored as one piece
RETRY_SECONDS = 0.5  # between two tries to reach a database that is away
LEASE_MARGIN = 0.15  # the runner is stopped this part of the lease before its end
RUNNER_DIED = "runner_died"

# What passes by itself. Any other error of the database would come again at each try, under a lease renewed for ever.
DATABASE_AWAY = (OperationalError, InterfaceError, InternalError)


class Supervisor:
    """Sees one claimed job through, from the slot's thread."""

    def __init__(
        self,
        claim: Claim,
        *,
        sessions: sessionmaker[Session],
        settings: WorkerSettings,
        context: ForkServerContext,
        threads: int,
        gpu: str | None,
        slots_per_gpu: int,
        stopping: Flag,
    ) -> None:
        """Prepare the attempt; `threads` and `gpu` are the slot's share of the host."""
        self._claim = claim
        self._spec = JobSpec.model_validate(claim.spec)
        self._record = AttemptRecord(sessions, claim)
        self._settings = settings
        self._context = context
        self._artifacts = settings.artifacts_dir.resolve() / str(claim.job_id)
        self._checkpoints = KeptCheckpoints(self._artifacts, claim.checkpoints, claim.attempt)
        self._threads = threads
        self._gpu = gpu
        self._slots_per_gpu = slots_per_gpu
        self._stopping = stopping
        self._pending: deque[Event] = deque()
        self._printed = ""
        self._outcome: Succeeded | Failed | None = None
        self._asked_to_stop = False
        self._next_beat = 0.0
        self._next_control = 0.0
        self._next_log = 0.0

    def run(self) -> None:
        """Train the job to its end, or until the attempt is no longer ours."""
        with structlog.contextvars.bound_contextvars(job=str(self._claim.job_id), attempt=self._claim.attempt):
            log.info("attempt_started")
            claimed_at = time.monotonic()
            runner = RunnerProcess(self._context, self._assignment())
            try:
                limit = self._spec.resources.time_limit_seconds
                runner.set_deadline("time_limit", claimed_at + limit - self._claim.seconds_used)
                self._extend_lease(runner, claimed_at)
                self._follow(runner)
                self._conclude(runner)
            except AttemptSuperseded as error:
                log.warning("attempt_superseded", detail=str(error))
            finally:
                runner.kill()

    def _assignment(self) -> Assignment:
        return Assignment(
            job_id=self._claim.job_id,
            attempt=self._claim.attempt,
            spec=self._spec,
            artifacts=self._artifacts,
            datasets=self._settings.datasets_dir.resolve(),
            download=self._settings.download_datasets,
            checkpoints=self._claim.checkpoints,
            threads=self._threads,
            slots=self._settings.slots,
            slots_per_gpu=self._slots_per_gpu,
            data_limit_bytes=self._settings.data_limit_bytes,
            gpu=self._gpu,
            git_commit=self._settings.git_commit,
        )

    def _follow(self, runner: RunnerProcess) -> None:
        """Record and relay until the runner has ended and everything it said is recorded."""
        ended = False
        while not ended or self._pending or self._printed:
            ended = runner.wait(CONTROL_SECONDS)
            self._pending.extend(runner.take_events())
            self._printed = (self._printed + runner.take_output())[-OUTPUT_LIMIT:]
            try:
                self._record_pending()
                if ended or time.monotonic() >= self._next_log:
                    self._record_log()
                if not ended:
                    self._beat(runner)
                    self._relay_requests(runner)
            except DATABASE_AWAY as error:
                self._wait_for_database(error)

    def _record_pending(self) -> None:
        while self._pending:
            match self._pending[0]:
                case EpochEnded(metrics=metrics, checkpoint=checkpoint):
                    self._record.add_epoch(metrics, checkpoint)
                    self._checkpoints.add(checkpoint)
                    log.info("epoch", epoch=metrics.epoch, train_loss=metrics.train_loss)
                case Phase(message=message):
                    self._record.say(message)
                case Succeeded() | Failed() as outcome:
                    self._outcome = outcome
            self._pending.popleft()

    def _record_log(self) -> None:
        if self._printed:
            self._record.add_log(self._printed)
            self._printed = ""
            self._next_log = time.monotonic() + LOG_SECONDS

    def _beat(self, runner: RunnerProcess) -> None:
        if time.monotonic() < self._next_beat:
            return
        before = time.monotonic()
        self._record.renew(self._settings.lease_seconds)
        self._extend_lease(runner, before)

    def _extend_lease(self, runner: RunnerProcess, renewed_at: float) -> None:
        # Counted from before the renewal was sent: the runner stops before the database's lease ends, never after.
        lease = self._settings.lease_seconds
        runner.set_lease_end(renewed_at + lease * (1 - LEASE_MARGIN), renewed_at + lease * (1 - LEASE_MARGIN / 3))
        self._next_beat = renewed_at + self._settings.beat_seconds

    def _relay_requests(self, runner: RunnerProcess) -> None:
        if self._asked_to_stop or time.monotonic() < self._next_control:
            return
        self._next_control = time.monotonic() + CONTROL_SECONDS
        if self._stopping.is_set():
            purpose = "shutdown"
        elif self._record.status() == Status.CANCELLING:
            purpose = "cancel"
        else:
            return
        log.info("runner_asked_to_stop", purpose=purpose)
        runner.ask_to_stop(purpose, grace_seconds=STOP_GRACE_SECONDS)
        self._asked_to_stop = True

    def _conclude(self, runner: RunnerProcess) -> None:
        """Move the job to where its runner's end leads, however long the database takes to come back."""
        concluded = False
        while not concluded:
            try:
                self._move_job(runner)
                concluded = True
            except DATABASE_AWAY as error:
                if self._stopping.is_set():
                    raise  # the lease runs out by itself, and the next worker goes on
                self._wait_for_database(error)

    def _move_job(self, runner: RunnerProcess) -> None:
        limit = self._settings.retry_limit
        match self._outcome:
            case Succeeded(result=result, predictions=predictions):
                self._record.succeed(result, predictions)
                log.info("job_succeeded")
            case Failed(reason=reason, message=message):
                self._record.fail(reason, message)
                log.info("job_failed", reason=reason, detail=message)
            case None if runner.killed_for == "time_limit":
                seconds = self._spec.resources.time_limit_seconds
                self._record.fail("time_limit", f"The job ran longer than its limit of {seconds} seconds.")
            case None if runner.killed_for == "lease":
                self._record.give_back(WORKER_LOST, "The worker could not renew its lease.", retry_limit=limit)
            case None if self._asked_to_stop:  # a cancel that was asked for comes first, in the record
                self._record.preempt("The worker was shut down. Goes on from the last checkpoint.")
            case None:
                log.warning("runner_died", exit_code=runner.exit_code)
                self._record.give_back(RUNNER_DIED, _how_it_died(runner.exit_code), retry_limit=limit)

    def _wait_for_database(self, error: SQLAlchemyError) -> None:
        log.warning("database_away", detail=str(error).splitlines()[0])
        time.sleep(RETRY_SECONDS)


def _how_it_died(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        hint = ": a file that it had mapped was cut short, or its disk failed" if -exit_code == signal.SIGBUS else ""
        return f"The runner was ended by signal {-exit_code}{hint}."
    return f"The runner ended with exit code {exit_code} and no result."
