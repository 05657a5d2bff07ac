"""The Celery application of a worker: it only hears wake-ups; the slots do the work."""

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog
from celery import Celery, bootsteps
from celery.signals import worker_shutting_down
from sqlalchemy import Engine

from models.wake import WAKE_TASK, celery_settings
from worker.host import Host
from worker.registration import Registration
from worker.settings import WorkerSettings
from worker.slots import Slots

log = structlog.get_logger(__name__)

_STOP_SECONDS = 27  # a worker that is told to stop is gone within 30 s
# Longer than the blocking read with which Celery waits for messages.
_SOCKET_TIMEOUT_SECONDS = 10


def _leave_in_time() -> None:
    """End the process if nothing else has; its runners end with it, because their pipes do."""
    time.sleep(_STOP_SECONDS)
    log.error("stopped_the_hard_way", seconds=_STOP_SECONDS)
    os._exit(1)


def _begin(act: Callable[[], None]) -> None:
    threading.Thread(target=act, name=act.__name__, daemon=True).start()


def worker_app(settings: WorkerSettings, engine: Engine, registration: Registration, host: Host) -> Celery:
    """Return an application whose worker starts the slots and stops all of these, and whose one task wakes them."""
    app = Celery("trainyard", set_as_current=False)
    app.conf.update(celery_settings(settings, socket_timeout_seconds=_SOCKET_TIMEOUT_SECONDS))
    slots = Slots(settings, engine, host.gpus, registration)
    registration.when_resumed(slots.wake)

    class SlotsStep(bootsteps.StartStopStep):
        """Starts the slots before the consumer, so that they also look for work while the broker is away."""

        requires = ("celery.worker.components:Pool",)

        def start(self, parent: Any) -> None:
            """Start the slots with the worker."""
            # Celery would start itself again, by a command that is not ours.
            signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))
            slots.start()

        def stop(self, parent: Any) -> None:
            """Stop the slots with the worker, if they have not stopped by now."""
            _begin(_leave_in_time)  # Celery gives up by itself, too, without a word to the others
            slots.stop()
            registration.stop()
            engine.dispose()

        terminate = stop  # a second signal makes Celery hurry; jobs are given back all the same

    @worker_shutting_down.connect(weak=False)
    def begin_to_stop(**_: Any) -> None:
        """Stop the slots at once: Celery comes to the step above when the broker has answered, or too late.

        What waits for a frozen database is left, and its leases run out.
        """
        _begin(slots.stop)
        _begin(_leave_in_time)

    @app.task(name=WAKE_TASK, ignore_result=True)
    def wake(queue: str) -> None:
        """Hear that `queue` has work, or that an admin wants something else of this worker."""
        slots.wake()
        registration.refresh()

    app.steps["worker"].add(SlotsStep)
    return app
