"""The scheduler, `python -m worker.scheduler`: Celery beat that ends lost leases, wakes workers and moves sweeps on."""

from typing import Any

import structlog
from celery import Celery
from celery.beat import ScheduleEntry, Scheduler
from kombu.exceptions import OperationalError as BrokerAway
from redis.exceptions import RedisError
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from models.database import sync_engine, sync_sessions
from models.idempotency import forget_old_answers
from models.logs import configure_logs
from models.settings import read_settings
from models.wake import WAKE_TASK, celery_settings
from models.webhook import forget_old_deliveries
from worker.preemption import make_room
from worker.queue import expire_leases, queues_with_work
from worker.settings import WorkerSettings
from worker.sweeps.tick import advance_sweeps

log = structlog.get_logger(__name__)

_SWEEP = "trainyard.sweep"
_ADVANCE_SWEEPS = "trainyard.advance_sweeps"
_TIDY = "trainyard.tidy"
_TIDY_SECONDS = 60
_SOCKET_TIMEOUT_SECONDS = 1


class LocalScheduler(Scheduler):
    """Runs due entries in this process: a lost lease must be seen also while no worker is alive to run a task."""

    producer: Any = None  # beat would wait for the broker before each entry

    def apply_async(self, entry: ScheduleEntry, producer: Any = None, advance: bool = True, **kwargs: Any) -> None:
        """Run the entry's task here and now."""
        self.reserve(entry)
        self.app.tasks[str(entry.task)]()


def scheduler_app(settings: WorkerSettings, engine: Engine) -> Celery:
    """Return an application whose beat sweeps up every `settings.sweep_seconds`, and gives sweeps their points."""
    app = Celery("trainyard-scheduler", set_as_current=False)
    app.conf.update(celery_settings(settings, socket_timeout_seconds=_SOCKET_TIMEOUT_SECONDS))
    app.conf.beat_schedule = {
        "sweep": {"task": _SWEEP, "schedule": settings.sweep_seconds},
        "advance-sweeps": {"task": _ADVANCE_SWEEPS, "schedule": settings.point_seconds},
        "tidy": {"task": _TIDY, "schedule": _TIDY_SECONDS},
    }
    app.conf.beat_scheduler = LocalScheduler
    app.conf.beat_max_loop_interval = settings.sweep_seconds
    sessions = sync_sessions(engine)

    @app.task(name=_SWEEP, ignore_result=True)
    def sweep() -> None:
        """End lost leases, make room for higher priorities, and wake the workers of the queues in which a job waits."""
        try:
            with sessions.begin() as session:
                expire_leases(session, retry_limit=settings.retry_limit)
            if settings.preemption:
                with sessions.begin() as session:
                    make_room(session, wait_seconds=settings.preemption_wait_seconds)
            with sessions.begin() as session:
                waiting = queues_with_work(session)
            for queue in waiting:
                _wake(app, queue)
        except (DBAPIError, BrokerAway, RedisError, OSError) as error:
            # Both come back; the next sweep finds what this one missed.
            log.warning("sweep_failed", detail=str(error).splitlines()[0])

    @app.task(name=_ADVANCE_SWEEPS, ignore_result=True)
    def advance() -> None:
        """Give the open sweeps of parameters their next jobs, then wake the workers of the queues that got one."""
        try:
            for queue in advance_sweeps(sessions, max_queued=settings.max_queued):
                _wake(app, queue)
        except (DBAPIError, BrokerAway, RedisError, OSError) as error:
            log.warning("advance_failed", detail=str(error).splitlines()[0])

    @app.task(name=_TIDY, ignore_result=True)
    def tidy_up() -> None:
        """Delete what is past its time."""
        try:
            with sessions.begin() as session:
                tidy(session)
        except (DBAPIError, OSError) as error:
            log.warning("tidy_failed", detail=str(error).splitlines()[0])

    return app


def tidy(session: Session) -> None:
    """Delete the answers of idempotency keys, and the deliveries of webhooks, that are past their time."""
    session.execute(forget_old_answers())
    session.execute(forget_old_deliveries())


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
