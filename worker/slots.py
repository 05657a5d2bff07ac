"""The slots of a worker: one thread claims jobs for what is free here, and each job has a thread that sees it through.

That one thread alone claims makes a claim and the choice of its GPUs one step: no two jobs are given the same memory.
"""

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import structlog
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from models.database import sync_sessions
from models.forecast import Place, Running
from worker.allocation import allocate, offer_of, threads_of_each
from worker.forkserver import WarmForkserver, forkserver
from worker.gpus import Gpu
from worker.metrics import ATTEMPTS_RUNNING, CLAIM_SECONDS
from worker.outage import DATABASE_NOT_READY, Outage
from worker.processor import usable_cores
from worker.queue import Claim, claim_next, claim_unheard_of
from worker.reaper import Reaper
from worker.registration import Registration
from worker.retention import ARTIFACTS_MARK
from worker.settings import WorkerSettings
from worker.supervisor import Supervisor

log = structlog.get_logger(__name__)

STOP_SECONDS = 20


@dataclass(frozen=True)
class _Held:
    """An attempt that holds a slot and its GPUs, and when it was claimed, of time.monotonic()."""

    claim: Claim
    since: float

    def running(self, now: float) -> Running:
        """Return it as the reservations of the queue see it."""
        estimated = self.claim.estimated_seconds
        remaining = None if estimated is None else estimated - (now - self.since)
        return Running(self.claim.demand, self.claim.gpus, remaining)


class Slots:
    """All slots of one worker process, with the GPUs that its jobs are given."""

    def __init__(
        self, settings: WorkerSettings, engine: Engine, gpus: Sequence[Gpu], registration: Registration
    ) -> None:
        """Prepare `settings.slots` slots, at most one per core, that share this host's cores and these GPUs."""
        self._settings = settings
        self._sessions = sync_sessions(engine)
        self._gpus = {gpu.uuid: gpu.memory_bytes for gpu in gpus}
        self._registration = registration
        self._threads = threads_of_each(usable_cores(), settings.slots)
        self._context = forkserver()
        self._stopping = threading.Event()
        self._news = threading.Condition()
        self._wakes = 0
        self._held: dict[threading.Thread, _Held] = {}
        self._reaper = Reaper(self._sessions, settings, every_seconds=settings.poll_seconds)
        self._database = Outage("database")
        self._in_doubt = False  # whether a claim may have been committed that nobody here knows of
        self._claimer = threading.Thread(target=self._claim_until_stopped, name="claims", daemon=True)

    def start(self) -> None:
        """Begin to claim, once runners can start at once."""
        self._claimer.start()

    def wake(self) -> None:
        """Look for work now."""
        with self._news:
            self._wakes += 1
            self._news.notify_all()

    def stop(self) -> None:
        """Stop every runner, give its job back, and wait for the slots to end."""
        self._stopping.set()
        self.wake()
        deadline = time.monotonic() + STOP_SECONDS
        self._claimer.join(STOP_SECONDS)
        with self._news:
            running = list(self._held)
        for thread in running:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _claim_until_stopped(self) -> None:
        warm = WarmForkserver(self._context)
        while not self._stopping.is_set():
            seen = self._wakes
            try:
                claim = self._claim() if self._is_ready(warm) else None
                if claim is not None:
                    self._start(claim)
                    continue
            except Exception:
                # Whatever it was, the jobs that run need their worker, and those that wait one that takes them.
                log.exception("claim_failed")
            self._wait_for_news(seen)

    def _is_ready(self, warm: WarmForkserver) -> bool:
        try:
            if warm.make_ready():
                log.info("slots_ready", slots=self._settings.slots)
        except (OSError, EOFError) as error:
            log.warning("forkserver_died", detail=str(error) or type(error).__name__)
            return False
        return True

    def _wait_for_news(self, seen: int) -> None:
        with self._news:
            self._news.wait_for(
                lambda: self._wakes != seen or self._stopping.is_set(), timeout=self._settings.poll_seconds
            )

    def _claim(self) -> Claim | None:
        """Take the job that is next for what is free here; None where there is none, or none can be taken.

        Leases that have run out are ended also where all slots are taken: the scheduler may not be there.
        """
        if not self._database.is_due:
            return None
        claim, place = None, self._place()
        try:
            self._reaper.sweep()
            if len(place.running) < place.slots and self._can_claim():
                began = time.perf_counter()
                claim = self._claim_for(place)
                if claim is not None:
                    claim = replace(claim, claim_seconds=time.perf_counter() - began)
                    CLAIM_SECONDS.observe(claim.claim_seconds)
            self._database.is_over()
        except DATABASE_NOT_READY as error:
            self._database.goes_on(error)
        return claim

    def _can_claim(self) -> bool:
        """Tell whether jobs are wanted here, and checkpoints can be kept: a host without would fail job after job."""
        if self._registration.draining:
            return False
        directory = self._settings.artifacts_dir
        if not os.access(directory / ARTIFACTS_MARK, os.F_OK):  # made when the worker started
            log.error("artifacts_gone", directory=str(directory), advice="mount them, and start the worker again")
            return False
        if not os.access(directory, os.W_OK):
            log.error("artifacts_not_writable", directory=str(directory))
            return False
        return True

    def _claim_for(self, place: Place) -> Claim | None:
        """Take the next job, or the one whose claim was committed while the answer was lost."""
        in_doubt, self._in_doubt = self._in_doubt, True
        with self._sessions.begin() as session:
            if not self._registration.may_claim(session):
                return None
            claim = self._unheard_of(session) if in_doubt else None
            claim = claim or claim_next(
                session,
                worker=self._settings.worker_name,
                offer=offer_of(place),
                allocate=partial(allocate, place),
                lease_seconds=self._settings.lease_seconds,
            )
        self._in_doubt = False
        return claim

    def _unheard_of(self, session: Session) -> Claim | None:
        with self._news:
            held = [one.claim.job_id for one in self._held.values()]
        return claim_unheard_of(
            session, worker=self._settings.worker_name, held=held, lease_seconds=self._settings.lease_seconds
        )

    def _place(self) -> Place:
        with self._news:
            held = list(self._held.values())
        now = time.monotonic()
        return Place(
            name=self._settings.worker_name,
            queues=self._settings.queues,
            has_gpus=bool(self._gpus),
            slots=self._settings.slots,
            gpus=self._gpus,
            running=[one.running(now) for one in held],
        )

    def _start(self, claim: Claim) -> None:
        thread = threading.Thread(target=self._see_through, args=(claim,), name=f"job {claim.job_id}", daemon=True)
        with self._news:
            self._held[thread] = _Held(claim, time.monotonic())
        try:
            thread.start()
        except RuntimeError:  # no thread is to be had: the lease runs out, and the job goes on elsewhere
            self._forget(thread)
            raise

    def _see_through(self, claim: Claim) -> None:
        try:
            with ATTEMPTS_RUNNING.track_inprogress():
                self._supervisor(claim).run()
        except Exception:
            # The lease runs out and another attempt follows; the worker must outlive it.
            log.exception("supervisor_failed", job=str(claim.job_id), attempt=claim.attempt)
        finally:
            self._forget(threading.current_thread())
            self.wake()

    def _forget(self, thread: threading.Thread) -> None:
        with self._news:
            del self._held[thread]

    def _supervisor(self, claim: Claim) -> Supervisor:
        return Supervisor(
            claim,
            sessions=self._sessions,
            settings=self._settings,
            context=self._context,
            threads=self._threads,
            gpu_bytes=min((self._gpus[uuid] for uuid in claim.gpus), default=None),
            stopping=self._stopping,
        )
