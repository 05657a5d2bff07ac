"""The Celery application of a worker: it only hears wake-ups; the slots do the work."""

from typing import Any

from celery import Celery, bootsteps
from sqlalchemy import Engine

from models.wake import WAKE_TASK, celery_settings
from worker.host import Host
from worker.registration import Registration
from worker.settings import WorkerSettings
from worker.slots import Slots

# Longer than the blocking read with which Celery waits for messages.
_SOCKET_TIMEOUT_SECONDS = 10


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
            slots.start()

        def stop(self, parent: Any) -> None:
            """Stop the slots with the worker."""
            slots.stop()
            registration.stop()
            engine.dispose()

    @app.task(name=WAKE_TASK, ignore_result=True)
    def wake(queue: str) -> None:
        """Hear that `queue` has work, or that an admin wants something else of this worker."""
        slots.wake()
        registration.refresh()

    app.steps["worker"].add(SlotsStep)
    return app
