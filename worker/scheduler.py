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
from sqlalchemy.orm import Session, sessionmaker

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

_TIDY_SECONDS = 60
_SOCKET_TIMEOUT_SECONDS = 1


class _LocalScheduler(Scheduler):
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


class _Duties:
    """What is done again and again; each returns the queues whose workers are to be woken for it."""

    def __init__(self, settings: WorkerSettings, sessions: sessionmaker[Session]) -> None:
        """Work through `sessions`."""
        self._settings = settings
        self._sessions = sessions
        self._reaper = Reaper(sessions, settings, every_seconds=settings.sweep_seconds)
        self._retention = Retention(sessions, settings)

    def sweep(self) -> Collection[str]:
        """End lost leases and make room for higher priorities; return the queues in which a job waits."""
        self._reaper.sweep()
        if self._settings.preemption:
            with self._sessions.begin() as session:
                make_room(session, wait_seconds=self._settings.preemption_wait_seconds)
        with self._sessions.begin() as session:
            return queues_with_work(session)

    def advance_sweeps(self) -> Collection[str]:
        """Give the open sweeps of parameters their next jobs."""
        return advance_sweeps(self._sessions, max_queued=self._settings.max_queued)

    def tidy(self) -> Collection[str]:
        """Delete what is past its time."""
        with self._sessions.begin() as session:
            tidy(session)
        return ()

    def remove(self) -> Collection[str]:
        """Remove the files, then the rows, of jobs that were deleted or are past their time."""
        self._retention.remove()
        return ()


def _scheduler_app(settings: WorkerSettings, engine: Engine) -> Celery:
    """Return an application whose beat does each duty as often as the settings say."""
    app = Celery("trainyard-scheduler", set_as_current=False)
    app.conf.update(celery_settings(settings, socket_timeout_seconds=_SOCKET_TIMEOUT_SECONDS))
    app.conf.beat_scheduler = _LocalScheduler
    app.conf.beat_max_loop_interval = settings.sweep_seconds
    servers = _Servers(app)
    duties = _Duties(settings, sync_sessions(engine))

    def repeat(name: str, act: Callable[[], Collection[str]], seconds: float) -> dict[str, Any]:
        @app.task(name=name, ignore_result=True)
        def visit() -> None:
            servers.visit(act)

        return {"task": name, "schedule": seconds}

    app.conf.beat_schedule = {
        "sweep": repeat("trainyard.sweep", duties.sweep, settings.sweep_seconds),
        "advance-sweeps": repeat("trainyard.advance_sweeps", duties.advance_sweeps, settings.point_seconds),
        "tidy": repeat("trainyard.tidy", duties.tidy, _TIDY_SECONDS),
        "remove": repeat("trainyard.remove", duties.remove, settings.removal_seconds),
    }
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
    app = _scheduler_app(settings, engine)
    log.info("scheduler_started", sweep_seconds=settings.sweep_seconds)
    app.Beat(loglevel="INFO", quiet=True).run()


if __name__ == "__main__":
    main()
