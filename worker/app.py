"""The Celery application of a worker: it only hears wake-ups; the slots do the work."""

from typing import Any

from celery import Celery, bootsteps

from models.database import sync_engine
from models.wake import WAKE_TASK, celery_settings
from worker.gpus import usable_gpus
from worker.settings import WorkerSettings
from worker.slots import Slots

# Longer than the blocking read with which Celery waits for messages.
_SOCKET_TIMEOUT_SECONDS = 10
_SPARE_CONNECTIONS = 2


def worker_app(settings: WorkerSettings) -> Celery:
    """Return an application whose worker starts and stops the slots, and whose one task wakes them."""
    app = Celery("trainyard", set_as_current=False)
    app.conf.update(celery_settings(settings, socket_timeout_seconds=_SOCKET_TIMEOUT_SECONDS))
    engine = sync_engine(settings, pool_size=settings.slots + _SPARE_CONNECTIONS)
    slots = Slots(settings, engine, usable_gpus())

    class SlotsStep(bootsteps.StartStopStep):
        """Starts the slots before the consumer, so that they also look for work while the broker is away."""

        requires = ("celery.worker.components:Pool",)

        def start(self, parent: Any) -> None:
            """Start the slots with the worker."""
            slots.start()

        def stop(self, parent: Any) -> None:
            """Stop the slots with the worker."""
            slots.stop()
            engine.dispose()

    @app.task(name=WAKE_TASK, ignore_result=True)
    def wake(queue: str) -> None:
        """Hear that `queue` has work."""
        slots.wake()

    app.steps["worker"].add(SlotsStep)
    return app
