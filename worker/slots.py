"""The slots of a worker: one thread each, that claims a job, sees it through, and looks for the next."""

import math
import os
import threading
import time

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from models.database import sync_sessions
from worker.gpus import Gpu
from worker.queue import Claim, claim_next, expire_leases
from worker.runner_process import forkserver, warm_up
from worker.settings import WorkerSettings
from worker.supervisor import Supervisor

log = structlog.get_logger(__name__)

STOP_SECONDS = 20


class Slots:
    """All slots of one worker process."""

    def __init__(self, settings: WorkerSettings, engine: Engine, gpus: list[Gpu]) -> None:
        """Prepare `settings.slots` slots that share this host's cores and GPUs."""
        self._settings = settings
        self._sessions = sync_sessions(engine)
        self._gpus = gpus
        self._context = forkserver()
        self._stopping = threading.Event()
        self._work = threading.Condition()
        self._wakes = 0
        self._threads = [
            threading.Thread(target=self._serve, args=(slot,), name=f"slot-{slot}", daemon=True)
            for slot in range(settings.slots)
        ]

    def start(self) -> None:
        """Start every slot's thread; they claim once runners can start at once."""
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Let every idle slot look for work now."""
        with self._work:
            self._wakes += 1
            self._work.notify_all()

    def stop(self) -> None:
        """Stop every runner, give its job back, and wait for the slots to end."""
        self._stopping.set()
        self.wake()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _serve(self, slot: int) -> None:
        # Importing torch takes seconds, in which a claimed job would wait here beside a free worker.
        warm_up(self._context)
        while not self._stopping.is_set():
            seen = self._wakes
            claim = self._claim()
            if claim is None:
                self._wait_for_work(seen)
                continue
            try:
                self._supervisor(claim, slot).run()
            except Exception:
                # The lease runs out and another attempt follows; the slot must outlive it.
                log.exception("supervisor_failed", job=str(claim.job_id), attempt=claim.attempt)

    def _wait_for_work(self, seen: int) -> None:
        with self._work:
            self._work.wait_for(
                lambda: self._wakes != seen or self._stopping.is_set(), timeout=self._settings.poll_seconds
            )

    def _claim(self) -> Claim | None:
        try:
            with self._sessions.begin() as session:
                expire_leases(session, retry_limit=self._settings.retry_limit)
            with self._sessions.begin() as session:
                return claim_next(
                    session,
                    worker=self._settings.worker_name,
                    queues=self._settings.queues,
                    devices=["auto", "cpu", "cuda"] if self._gpus else ["auto", "cpu"],
                    lease_seconds=self._settings.lease_seconds,
                )
        except (DBAPIError, PoolTimeout) as error:
            log.warning("database_away", detail=str(error).splitlines()[0])
            return None

    def _supervisor(self, claim: Claim, slot: int) -> Supervisor:
        return Supervisor(
            claim,
            sessions=self._sessions,
            settings=self._settings,
            context=self._context,
            # Default threads for two jobs made 0.4 to 0.7 of what one makes.
            threads=max(1, usable_cores() // self._settings.slots),
            gpu=self._gpus[slot % len(self._gpus)].uuid if self._gpus else None,
            slots_per_gpu=math.ceil(self._settings.slots / len(self._gpus)) if self._gpus else 1,
            stopping=self._stopping,
        )


def usable_cores() -> int:
    """Return how many cores this process may use, which can be fewer than the host has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
