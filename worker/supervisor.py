"""The supervisor of one attempt: starts the runner, holds the lease, relays requests, and records what comes of it."""

import signal
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from threading import Event as Flag
from typing import TypeVar

import structlog
from sqlalchemy.orm import Session, sessionmaker

from models.errors import DiskFull, InitialCheckpointLost
from models.faults import FaultPoint, fault_point
from models.pace import GpuUse
from models.reasons import OUT_OF_MEMORY, RUNNER_DIED, TIME_LIMIT, WORKER_LOST
from models.result import InitialWeights
from models.spec import JobSpec
from worker.attempt import AttemptRecord, AttemptSuperseded
from worker.kept_checkpoints import KeptCheckpoints
from worker.memory_limit import MemoryLimit
from worker.messages import RANK_DIED, Assignment, CheckpointSkipped, EpochEnded, Event, Failed, Phase, Succeeded
from worker.metrics import LEASE_LOSSES
from worker.outage import DATABASE_AWAY, Outage
from worker.queue import Claim
from worker.runner_process import START, START_SECONDS, RunnerProcess
from worker.settings import WorkerSettings
from worker.stop_request import StopRequest

log = structlog.get_logger(__name__)

_CONTROL_SECONDS = 0.25  # how often a request to stop is looked for
_RETRY_SECONDS = 4.0  # at most, between two tries to reach a database that is away
_LOG_SECONDS = 1.0  # output is gathered this long before it is stored as one piece
_LEASE_MARGIN = 0.05  # the runner of a suspended worker ends itself this part of the lease before its end
_ALONE = "The memory of a GPU that it shared did not suffice. Goes on once more with a GPU of its own."

_OUTAGE = "outage"  # what a runner is killed for when nobody has renewed its lease for too long
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
        self._piece = ""  # of the log, whose recording may have failed: the same is tried again
        self._database = Outage("database", longest_seconds=min(_RETRY_SECONDS, settings.lease_seconds / 4))
        self._outcome: Succeeded | Failed | None = None
        self._stop_request = StopRequest()
        self._next_beat = 0.0
        self._next_control = 0.0
        self._next_log = 0.0

    def run(self) -> None:
        """Train the job to its end, or until the attempt is no longer ours."""
        with structlog.contextvars.bound_contextvars(job=str(self._claim.job_id), attempt=self._claim.attempt):
            log.info("attempt_started")
            fault_point(FaultPoint.CLAIMED)
            try:
                self._begin(claimed_at=time.monotonic())
            except AttemptSuperseded as error:
                LEASE_LOSSES.inc()
                log.warning("attempt_superseded", detail=str(error))
                self._leave_no_strays()
            except DATABASE_AWAY as error:
                log.warning("attempt_left", detail=str(error).splitlines()[0])

    def _leave_no_strays(self) -> None:
        """Remove the checkpoints of this attempt that nobody will ever use: no epoch in the database names them."""
        try:
            self._checkpoints.drop_own_but(self._insist(self._record.checkpoint_files))
        except DATABASE_AWAY as error:  # the next attempt removes what it finds
            log.warning("checkpoints_left", detail=str(error).splitlines()[0])

    def _begin(self, claimed_at: float) -> None:
        try:
            initial = self._insist(self._initial_weights)
        except (InitialCheckpointLost, DiskFull) as error:
            lost = Failed(reason=error.code, message=str(error))
            limit = self._settings.retry_limit
            self._insist(lambda: self._record.fail(lost.reason, lost.message, retry_limit=limit))
            log.info("attempt_failed", reason=lost.reason, detail=lost.message)
        else:
            cap = MemoryLimit.lower_of(self._spec.resources.memory_gb, self._settings.runner_memory_gb)
            self._see_through(RunnerProcess(self._context, self._assignment(initial), cap), claimed_at)

    def _see_through(self, runner: RunnerProcess, claimed_at: float) -> None:
        try:
            limit = self._spec.resources.time_limit_seconds
            runner.set_deadline("time_limit", claimed_at + limit - self._claim.seconds_used)
            # In an outage this may be more than a lease after the claim: to renew it is the first thing to be done.
            self._extend_lease(runner, time.monotonic())
            self._next_beat = 0.0
            self._follow(runner)
            self._insist(lambda: self._move_job(runner))
            self._checkpoints.drop_unrecorded()
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
        """Record and relay until the runner has ended and everything it said is recorded.

        While the database is away the runner trains on, and what it says is kept, for up to `outage_seconds`.
        """
        while True:
            ended = runner.wait(_CONTROL_SECONDS)
            self._pending.extend(runner.take_events())
            # What comes while this waits to be stored is kept there, the newest of it, with a note of what was dropped.
            self._printed = self._printed or runner.take_output()
            if ended and not (self._pending or self._printed or self._piece):
                return
            if self._stopping.is_set() and not ended:
                self._stop_request.tell(runner, "shutdown")  # which needs no database
            if self._database.is_due:
                self._visit_database(runner, ended)
            elif ended:
                time.sleep(_CONTROL_SECONDS)  # no news will come

    def _visit_database(self, runner: RunnerProcess, ended: bool) -> None:
        try:
            self._beat(runner)
            self._record_pending(runner)
            if ended or time.monotonic() >= self._next_log:
                self._record_log()
            if not ended:
                self._relay_requests(runner)
        except DATABASE_AWAY as error:
            self._database.goes_on(error)
        else:
            self._database.is_over()

    def _record_pending(self, runner: RunnerProcess) -> None:
        while self._pending:
            self._beat(runner)  # after an outage there may be many
            match self._pending[0]:
                case EpochEnded(metrics=metrics, checkpoint=checkpoint):
                    best = self._record.add_epoch(metrics, checkpoint)
                    self._checkpoints.add(checkpoint, best)
                    log.info("epoch", epoch=metrics.epoch, train_loss=metrics.train_loss)
                case Phase(message=message):
                    self._record.say(message)
                case CheckpointSkipped(checkpoint=checkpoint, why=why):
                    self._record.skip_checkpoint(checkpoint, why)
                    log.warning("checkpoint_skipped", file=checkpoint.file, epoch=checkpoint.epoch, why=why)
                case Succeeded() | Failed() as outcome:
                    self._outcome = outcome
            self._pending.popleft()

    def _record_log(self) -> None:
        if not self._piece:
            self._piece, self._printed = self._printed, ""
        if self._piece:
            self._record.add_log(self._piece)
            self._piece = ""
            self._next_log = time.monotonic() + _LOG_SECONDS

    def _beat(self, runner: RunnerProcess) -> None:
        if time.monotonic() < self._next_beat:
            return
        before = time.monotonic()
        fault_point(FaultPoint.RENEWAL)
        self._record.renew(self._settings.lease_seconds)
        self._extend_lease(runner, before)

    def _extend_lease(self, runner: RunnerProcess, renewed_at: float) -> None:
        # Counted from before the renewal was sent: a suspended worker's runner ends before the database's lease does.
        alone = self._settings.lease_seconds * (1 - _LEASE_MARGIN)
        runner.set_lease_end(renewed_at + alone, alone)
        runner.set_deadline(_OUTAGE, renewed_at + self._settings.outage_seconds)
        self._next_beat = renewed_at + self._settings.beat_seconds

    def _relay_requests(self, runner: RunnerProcess) -> None:
        if time.monotonic() < self._next_control:
            return
        self._next_control = time.monotonic() + _CONTROL_SECONDS
        if not self._stopping.is_set():
            self._stop_request.tell(runner, self._record.request())

    def _insist(self, act: Callable[[], Answer]) -> Answer:
        """Do what needs the database, however long that takes to come back."""
        while True:
            try:
                answer = act()
            except DATABASE_AWAY as error:
                if self._stopping.is_set():
                    raise  # the lease runs out by itself, and the next worker goes on
                self._stopping.wait(self._database.goes_on(error))
            else:
                self._database.is_over()
                return answer

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
                self._record.fail(reason, message, retry_limit=limit)
                log.info("attempt_failed", reason=reason, detail=message)
            case None if runner.killed_for == "time_limit":
                seconds = self._spec.resources.time_limit_seconds
                message = f"The job ran longer than its limit of {seconds} seconds."
                self._record.fail(TIME_LIMIT, message, retry_limit=limit)
            case None if runner.overrun is not None:
                self._record.fail(OUT_OF_MEMORY, runner.overrun, retry_limit=limit)
                log.info("attempt_failed", reason=OUT_OF_MEMORY, detail=runner.overrun)
            case None if runner.killed_for == _OUTAGE:
                outage = self._settings.outage_seconds
                message = f"The worker could not reach the database for {outage:g} seconds."
                self._record.fail(WORKER_LOST, message, retry_limit=limit)
            case None if self._stop_request.explains(runner.exit_code):
                self._record.stop_at_checkpoint(self._stop_request.sentence)  # a cancel comes first, in the record
            case None:
                log.warning("runner_died", exit_code=runner.exit_code, killed_for=runner.killed_for)
                self._record.fail(RUNNER_DIED, _how_it_died(runner), retry_limit=limit)


def _how_it_died(runner: RunnerProcess) -> str:
    exit_code = runner.exit_code
    if runner.killed_for == START:
        return f"The runner did not start within {START_SECONDS:g} seconds."
    if exit_code is None:
        return "The runner could not be started: the worker's log says why."
    if exit_code < 0:
        hint = ": a file that it had mapped was cut short, or its disk failed" if -exit_code == signal.SIGBUS else ""
        return f"The runner was ended by signal {-exit_code}{hint}."
    if exit_code == RANK_DIED:
        return "The process of one of the job's GPUs died, and those of the others were ended: the log says which."
    return f"The runner ended with exit code {exit_code} and no result."
