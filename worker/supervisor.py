"""The supervisor of one attempt: starts the runner, holds the lease, relays requests, and records what comes of it."""

import signal
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from threading import Event as Flag
from typing import Literal, TypeVar

import structlog
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from models.errors import InitialCheckpointLost
from models.pace import GpuUse
from models.result import InitialWeights
from models.spec import JobSpec
from worker.attempt import AttemptRecord, AttemptSuperseded
from worker.kept_checkpoints import KeptCheckpoints
from worker.messages import RANK_DIED, Assignment, EpochEnded, Event, Failed, Phase, Succeeded
from worker.queue import WORKER_LOST, Claim
from worker.runner_process import OUTPUT_LIMIT, RunnerProcess
from worker.settings import WorkerSettings

log = structlog.get_logger(__name__)

CONTROL_SECONDS = 0.25  # how often a request to stop is looked for
STOP_GRACE_SECONDS = 0.75  # a cancel must free the slot within two seconds
Purpose = Literal["shutdown", "cancel", "pause", "preemption"]
# What may wait for the end of the epoch loses nothing; lease and time limit end it all the same.
_GRACE_SECONDS: dict[Purpose, float | None] = {
    "shutdown": STOP_GRACE_SECONDS,
    "cancel": STOP_GRACE_SECONDS,
    "pause": None,
    "preemption": None,
}
# Why a job that runs goes back to the queue; None: the request was taken back, and the runner had left already.
_STOPPED_FOR: dict[Purpose | None, str] = {
    "shutdown": "The worker was shut down.",
    "cancel": "The attempt was stopped.",
    "pause": "The attempt had stopped before the request was taken back.",
    "preemption": "A job of higher priority needed its slot.",
    None: "The attempt had stopped before the request was taken back.",
}
LOG_SECONDS = 1.0  # output is gathered this long before it is stored as one piece
RETRY_SECONDS = 0.5  # between two tries to reach a database that is away
LEASE_MARGIN = 0.15  # the runner is stopped this part of the lease before its end
RUNNER_DIED = "runner_died"
_ALONE = "The memory of a GPU that it shared did not suffice. Goes on once more with a GPU of its own."

# What passes by itself. Any other error of the database would come again at each try, under a lease renewed for ever.
DATABASE_AWAY = (OperationalError, InterfaceError, InternalError)
Answer = TypeVar("Answer")


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
        gpu_bytes: int | None,
        stopping: Flag,
    ) -> None:
        """Prepare the attempt; `threads` is its share of the host, `gpu_bytes` all that (each of) its GPU has."""
        self._claim = claim
        self._spec = JobSpec.model_validate(claim.spec)
        self._record = AttemptRecord(sessions, claim)
        self._settings = settings
        self._context = context
        self._artifacts = settings.artifacts_dir.resolve() / str(claim.job_id)
        self._checkpoints = KeptCheckpoints(self._artifacts, claim.checkpoints, claim.attempt)
        self._threads = threads
        self._gpu_bytes = gpu_bytes
        self._stopping = stopping
        self._pending: deque[Event] = deque()
        self._printed = ""
        self._outcome: Succeeded | Failed | None = None
        self._asked: Purpose | None = None  # what the runner is to stop for
        self._may_have_left = False  # it was asked at least once
        self._next_beat = 0.0
        self._next_control = 0.0
        self._next_log = 0.0

    def run(self) -> None:
        """Train the job to its end, or until the attempt is no longer ours."""
        with structlog.contextvars.bound_contextvars(job=str(self._claim.job_id), attempt=self._claim.attempt):
            log.info("attempt_started")
            try:
                self._begin(claimed_at=time.monotonic())
            except AttemptSuperseded as error:
                log.warning("attempt_superseded", detail=str(error))

    def _begin(self, claimed_at: float) -> None:
        try:
            initial = self._insist(self._initial_weights)
        except InitialCheckpointLost as error:
            lost = Failed(reason=error.code, message=str(error))
            self._insist(lambda: self._record.fail(lost.reason, lost.message))
            log.info("job_failed", reason=lost.reason, detail=lost.message)
        else:
            self._see_through(RunnerProcess(self._context, self._assignment(initial)), claimed_at)

    def _see_through(self, runner: RunnerProcess, claimed_at: float) -> None:
        try:
            limit = self._spec.resources.time_limit_seconds
            runner.set_deadline("time_limit", claimed_at + limit - self._claim.seconds_used)
            self._extend_lease(runner, claimed_at)
            self._follow(runner)
            self._insist(lambda: self._move_job(runner))
        finally:
            runner.end()

    def _initial_weights(self) -> InitialWeights | None:
        initial = self._spec.initial_checkpoint
        return None if initial is None else self._record.initial_weights(initial, self._artifacts.parent)

    def _assignment(self, initial: InitialWeights | None) -> Assignment:
        return Assignment(
            job_id=self._claim.job_id,
            attempt=self._claim.attempt,
            spec=self._spec,
            artifacts=self._artifacts,
            datasets=self._settings.datasets_dir.resolve(),
            download=self._settings.download_datasets,
            checkpoints=self._claim.checkpoints,
            initial=initial,
            threads=self._threads,
            slots=self._settings.slots,
            data_limit_bytes=self._settings.data_limit_bytes,
            gpus=list(self._claim.gpus),
            gpu_memory_bytes=self._shared_gpu_bytes,
            git_commit=self._settings.git_commit,
        )

    @property
    def _shared_gpu_bytes(self) -> int | None:
        """What it may take of a GPU that others are on, or may come to; None where there is no such GPU."""
        demand = self._claim.demand
        if self._gpu_bytes is None or demand.takes_whole_gpus or demand.gpu_memory_bytes == self._gpu_bytes:
            return None
        return demand.gpu_memory_bytes

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
                    best = self._record.add_epoch(metrics, checkpoint)
                    self._checkpoints.add(checkpoint, best)
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
        if time.monotonic() < self._next_control:
            return
        self._next_control = time.monotonic() + CONTROL_SECONDS
        purpose: Purpose | None = "shutdown" if self._stopping.is_set() else self._record.request()
        if purpose == self._asked:
            return
        log.info("runner_asked_to_stop", purpose=purpose)
        if purpose is None:
            runner.go_on()
        else:
            runner.ask_to_stop(purpose, grace_seconds=_GRACE_SECONDS[purpose])
            self._may_have_left = True
        self._asked = purpose

    def _insist(self, act: Callable[[], Answer]) -> Answer:
        """Do what needs the database, however long that takes to come back."""
        while True:
            try:
                return act()
            except DATABASE_AWAY as error:
                if self._stopping.is_set():
                    raise  # the lease runs out by itself, and the next worker goes on
                self._wait_for_database(error)

    def _move_job(self, runner: RunnerProcess) -> None:
        """Move the job to where its runner's end leads."""
        limit = self._settings.retry_limit
        match self._outcome:
            case Succeeded(result=result, predictions=predictions, peak_gpu_bytes=peak):
                gpu = None if peak is None or self._gpu_bytes is None else GpuUse(peak, self._gpu_bytes)
                self._record.succeed(result, predictions, gpu)
                log.info("job_succeeded")
            case Failed(message=message, cuda=True) if self._shared_gpu_bytes is not None:
                self._record.retry_alone(_ALONE)
                log.info("out_of_shared_memory", detail=message)
            case Failed(reason=reason, message=message):
                self._record.fail(reason, message)
                log.info("job_failed", reason=reason, detail=message)
            case None if runner.killed_for == "time_limit":
                seconds = self._spec.resources.time_limit_seconds
                self._record.fail("time_limit", f"The job ran longer than its limit of {seconds} seconds.")
            case None if runner.killed_for == "lease":
                self._record.give_back(WORKER_LOST, "The worker could not renew its lease.", retry_limit=limit)
            case None if self._asked or (self._may_have_left and runner.exit_code == 0):
                self._record.stop_at_checkpoint(_STOPPED_FOR[self._asked])  # a cancel comes first, in the record
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
    if exit_code == RANK_DIED:
        return "The process of one of the job's GPUs died, and those of the others were ended: the log says which."
    return f"The runner ended with exit code {exit_code} and no result."
