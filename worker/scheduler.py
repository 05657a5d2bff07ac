"""The scheduler, `python -m worker.scheduler`: Celery beat that ends lost leases and sends wake-ups again."""

from typing import Any

import structlog
from celery import Celery
from celery.beat import ScheduleEntry, Scheduler
from kombu.exceptions import OperationalError as BrokerAway
from redis.exceptions import RedisError
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from models.database import sync_engine, sync_sessions
from models.logs import configure_logs
from models.settings import read_settings
from models.wake import WAKE_TASK, celery_settings
from worker.queue import expire_leases, queues_with_work
from worker.settings import WorkerSettings

log = structlog.get_logger(__name__)

_SWEEP = "trainyard.sweep"
_SOCKET_TIMEOUT_SECONDS = 1


class LocalScheduler(Scheduler):
    """Runs due entries in this process: a lost lease must be seen also while no worker is alive to run a task."""

    producer: Any = None  # beat would wait for the broker before each entry

    def apply_async(self, entry: ScheduleEntry, producer: Any = None, advance: bool = True, **kwargs: Any) -> None:
        """Run the entry's task here and now."""
        self.reserve(entry)
        self.app.tasks[str(entry.task)]()


def scheduler_app(settings: WorkerSettings, engine: Engine) -> Celery:
    """Return an application whose beat sweeps every `settings.sweep_seconds`."""
    app = Celery("trainyard-scheduler", set_as_current=False)
    app.conf.update(celery_settings(settings, socket_timeout_seconds=_SOCKET_TIMEOUT_SECONDS))
    app.conf.beat_schedule = {"sweep": {"task": _SWEEP, "schedule": settings.sweep_seconds}}
    app.conf.beat_scheduler = LocalScheduler
    app.conf.beat_max_loop_interval = settings.sweep_seconds
    sessions = sync_sessions(engine)

    @app.task(name=_SWEEP, ignore_result=True)
    def sweep() -> None:
        """End lost leases, then wake the workers of every queue in which a job waits."""
        try:
            with sessions.begin() as session:
                expire_leases(session, retry_limit=settings.retry_limit)
            with sessions.begin() as session:
                waiting = queues_with_work(session)
            for queue in waiting:
                _wake(app, queue)
        except (DBAPIError, BrokerAway, RedisError, OSError) as error:
            # Both come back; the next sweep finds what this one missed.
            log.warning("sweep_failed", detail=str(error).splitlines()[0])

    return app


def _wake(app: Celery, queue: str) -> None:
    """Send a wake-up unless one waits already: while no worker is alive they would pile up."""
    with app.connection_for_write() as connection:
        channel: Any = connection.default_channel
        if channel.queue_declare(queue=queue).message_count == 0:
            app.send_task(WAKE_TASK, args=[queue], queue=queue, retry=False, connection=connection)


def main() -> None:
    """Run the scheduler until it is told to stop."""
    configure_logs()
    settings = read_settings(WorkerSettings)
    engine = sync_engine(settings, pool_size=1)
    app = scheduler_app(settings, engine)
    app.Beat(loglevel="INFO", quiet=True).run()


if __name__ == "__main__":
    main()
