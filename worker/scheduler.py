"""The scheduler, `python -m worker.scheduler`: Celery beat that ends lost leases, wakes workers and moves sweeps on."""

import logging
from collections.abc import Callable, Collection
from typing import Any

import structlog
from celery import Celery
from celery.beat import ScheduleEntry, Scheduler
from kombu.exceptions import OperationalError as BrokerAway
from redis.exceptions import RedisError
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from models.database import sync_engine, sync_sessions
from models.idempotency import forget_old_answers
from models.logs import configure_logs
from models.named_queue import queues_with_work
from models.settings import read_settings
from models.wake import WAKE_TASK, celery_settings
from models.webhook import forget_old_deliveries
from worker.outage import DATABASE_NOT_READY, Outage
from worker.preemption import make_room
from worker.reaper import Reaper
from worker.retention import Retention
from worker.settings import WorkerSettings
from worker.sweeps.tick import advance_sweeps

log = structlog.get_logger(__name__)

_SWEEP = "trainyard.sweep"
_ADVANCE_SWEEPS = "trainyard.advance_sweeps"
_TIDY = "trainyard.tidy"
_REMOVE = "trainyard.remove"
_TIDY_SECONDS = 60
_SOCKET_TIMEOUT_SECONDS = 1


class LocalScheduler(Scheduler):
    """Runs due entries in this process: a lost lease must be seen also while no worker is alive to run a task."""

    producer: Any = None  # beat would wait for the broker before each entry

    def apply_async(self, entry: ScheduleEntry, producer: Any = None, advance: bool = True, **kwargs: Any) -> None:
        """Run the entry's task here and now."""
        self.reserve(entry)
        self.app.tasks[str(entry.task)]()


class _Servers:
    """Database and broker, either of which may be away; what a visit missed, the next one finds."""

    def __init__(self, app: Celery) -> None:
        """Send wake-ups through this application."""
        self._app = app
        self._database = Outage("database")
        self._broker = Outage("broker")

    def visit(self, act: Callable[[], Collection[str]]) -> None:
        """Do what needs the database, and wake the workers of the queues that it returns."""
        if not self._database.is_due:
            return
        try:
            queues = act()
        except DATABASE_NOT_READY as error:
            self._database.goes_on(error)
            return
        self._database.is_over()
        if queues and self._broker.is_due:
            self._wake(queues)

    def _wake(self, queues: Collection[str]) -> None:
        try:
            for queue in queues:
                _wake(self._app, queue)
        except (BrokerAway, RedisError, OSError) as error:
            self._broker.goes_on(error)
        else:
            self._broker.is_over()


def scheduler_app(settings: WorkerSettings, engine: Engine) -> Celery:
    """Return an application whose beat sweeps up every `settings.sweep_seconds`, and gives sweeps their points."""
    app = Celery("trainyard-scheduler", set_as_current=False)
    app.conf.update(celery_settings(settings, socket_timeout_seconds=_SOCKET_TIMEOUT_SECONDS))
    app.conf.beat_schedule = {
        "sweep": {"task": _SWEEP, "schedule": settings.sweep_seconds},
        "advance-sweeps": {"task": _ADVANCE_SWEEPS, "schedule": settings.point_seconds},
        "tidy": {"task": _TIDY, "schedule": _TIDY_SECONDS},
        "remove": {"task": _REMOVE, "schedule": settings.removal_seconds},
    }
    app.conf.beat_scheduler = LocalScheduler
    app.conf.beat_max_loop_interval = settings.sweep_seconds
    sessions = sync_sessions(engine)
    reaper = Reaper(sessions, settings, every_seconds=settings.sweep_seconds)
    retention = Retention(sessions, settings)
    servers = _Servers(app)

    def sweep_up() -> Collection[str]:
        reaper.sweep()
        if settings.preemption:
            with sessions.begin() as session:
                make_room(session, wait_seconds=settings.preemption_wait_seconds)
        with sessions.begin() as session:
            return queues_with_work(session)

    def clean() -> Collection[str]:
        with sessions.begin() as session:
            tidy(session)
        return ()

    def remove_jobs() -> Collection[str]:
        retention.remove()
        return ()

    @app.task(name=_SWEEP, ignore_result=True)
    def sweep() -> None:
        """End lost leases, make room for higher priorities, and wake the workers of the queues in which a job waits."""
        servers.visit(sweep_up)

    @app.task(name=_ADVANCE_SWEEPS, ignore_result=True)
    def advance() -> None:
        """Give the open sweeps of parameters their next jobs, then wake the workers of the queues that got one."""
        servers.visit(lambda: advance_sweeps(sessions, max_queued=settings.max_queued))

    @app.task(name=_TIDY, ignore_result=True)
    def tidy_up() -> None:
        """Delete what is past its time."""
        servers.visit(clean)

    @app.task(name=_REMOVE, ignore_result=True)
    def remove() -> None:
        """Remove the files, then the rows, of jobs that were deleted or are past their time."""
        servers.visit(remove_jobs)

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
    logging.getLogger("celery.beat").setLevel(logging.WARNING)  # else a line for each visit, more than one a second
    settings = read_settings(WorkerSettings)
    engine = sync_engine(settings, pool_size=1)
    app = scheduler_app(settings, engine)
    log.info("scheduler_started", sweep_seconds=settings.sweep_seconds)
    app.Beat(loglevel="INFO", quiet=True).run()


if __name__ == "__main__":
    main()
