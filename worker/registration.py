"""The worker's row: taken at the start by its name, kept fresh by heartbeats, closed at a clean stop."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Update, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, sessionmaker
from uuid_utils.compat import uuid7

from models.worker import Worker
from worker.host import Host
from worker.identity import still_lives, this_process
from worker.outage import DATABASE_NOT_READY, Outage
from worker.settings import WorkerSettings

log = structlog.get_logger(__name__)

_JOIN_SECONDS = 5
_LONGEST_LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Holder:
    """Another process that has the name."""

    instance: str
    host: str
    heartbeat_at: datetime


class Registration:
    """This worker among the workers of the lab, from `start` to `stop`."""

    def __init__(self, sessions: sessionmaker[Session], settings: WorkerSettings, host: Host) -> None:
        """Prepare the row of the worker that `settings` name, on this host."""
        self._sessions = sessions
        self._settings = settings
        self._host = host
        self._instance = this_process()
        self._database = Outage("database")
        self._beat_began: float | None = None  # of the heartbeat that is under way
        self._draining = True
        self._resumed: Callable[[], None] = lambda: None
        self._due = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._beat_until_stopped, name="heartbeat", daemon=True)

    @property
    def draining(self) -> bool:
        """Whether no job may be taken: an admin wants it, another process has the name, or nothing is known yet."""
        return self._draining

    @property
    def database_away_seconds(self) -> float:
        """For how long no heartbeat has reached the database; 0 where the last one did."""
        began = self._beat_began  # a frozen server answers with no error either
        return max(self._database.seconds, 0.0 if began is None else time.monotonic() - began)

    def may_claim(self, session: Session) -> bool:
        """Ask the database whether jobs may be taken; a drain that comes meanwhile waits for the transaction's end."""
        own = select(Worker.draining_since.is_(None)).where(
            Worker.name == self._name, Worker.instance == self._instance
        )
        return bool(session.scalar(own.with_for_update(read=True)))

    def when_resumed(self, call: Callable[[], None]) -> None:
        """Have `call` called, from any thread, whenever jobs may be taken again."""
        self._resumed = call

    def start(self) -> None:
        """Take the row of the name and begin with heartbeats; end the process where another one has the name.

        A process that may have been killed is given until its lease is over, one that was, on this machine, no time.
        While the database is away, the heartbeats try on.
        """
        try:
            self._take_or_refuse()
        except DATABASE_NOT_READY as error:
            self._database.goes_on(error)
        self._thread.start()

    def refresh(self) -> None:
        """Ask soon, from the heartbeats' thread, whether jobs may be taken."""
        self._due.set()

    def stop(self) -> None:
        """End the heartbeats and say that the worker has stopped."""
        self._stopping.set()
        self._due.set()
        self._thread.join(_JOIN_SECONDS)
        try:
            with self._sessions.begin() as session:
                session.execute(self._row_of(self._instance).values(stopped_at=func.clock_timestamp()))
        except DATABASE_NOT_READY as error:  # it will be seen by its silence
            log.warning("database_away", detail=str(error).splitlines()[0])

    def _take_or_refuse(self) -> None:
        seen: datetime | None = None
        while (holder := self._take()) is not None:
            if still_lives(holder.instance) or seen not in (None, holder.heartbeat_at):
                raise SystemExit(
                    f"another worker named {self._settings.worker_name} runs on {holder.host}: "
                    "give this one a name of its own with TRAINYARD_WORKER_NAME"
                )
            if seen is None:
                log.info("waits_for_name", worker=self._settings.worker_name, host=holder.host)
            seen = holder.heartbeat_at
            time.sleep(min(self._settings.beat_seconds, _LONGEST_LOOK_SECONDS))

    def _beat_until_stopped(self) -> None:
        self._host.load()  # from now on the processor's load is counted
        pause = self._settings.beat_seconds if self._database.is_due else 0.0
        while not self._stopping.is_set():
            self._due.wait(pause)
            self._due.clear()
            if self._stopping.is_set():
                return
            pause = self._settings.beat_seconds
            self._beat_began = time.monotonic()
            try:
                self._beat()
                self._database.is_over()
            except DATABASE_NOT_READY as error:
                pause = min(pause, self._database.goes_on(error))
            except Exception:
                # Jobs run on: without heartbeats the worker seems offline, and nothing worse.
                log.exception("heartbeat_failed")
            self._beat_began = None

    def _beat(self) -> None:
        load = self._host.load()
        with self._sessions.begin() as session:
            beat = self._row_of(self._instance).values(heartbeat_at=func.clock_timestamp(), load=load)
            draining = session.scalar(beat.returning(Worker.draining_since.is_not(None)))
        if draining is not None:
            self._hear(draining=draining)
        elif (holder := self._take()) is not None:
            # It was suspended for longer than a lease, and another one was started in its place.
            log.error("name_taken", worker=self._settings.worker_name, host=holder.host)
            self._hear(draining=True)

    def _take(self) -> Holder | None:
        """Take the row of the name, or return who lives and has it."""
        load = self._host.load()
        with self._sessions.begin() as session:
            draining = self._upsert(session, load)
            holder = self._holder(session) if draining is None else None
            if holder is not None and still_lives(holder.instance) is False:
                session.execute(self._row_of(holder.instance).values(stopped_at=func.clock_timestamp()))
                draining = self._upsert(session, load)
        if draining is None:
            return holder
        self._hear(draining=draining)
        return None

    def _holder(self, session: Session) -> Holder:
        query = select(Worker.instance, Worker.host, Worker.heartbeat_at).where(Worker.name == self._name)
        return Holder(*session.execute(query).one())

    def _upsert(self, session: Session, load: dict[str, Any]) -> bool | None:
        """Make the row, or take it from a process that has stopped or is silent, and return whether it is drained.

        Return None where it is another's.
        """
        now = func.clock_timestamp()
        values = self._described() | {"load": load, "started_at": now, "heartbeat_at": now, "stopped_at": None}
        return session.scalar(
            insert(Worker)
            .values(id=uuid7(), name=self._name, **values)
            .on_conflict_do_update(
                index_elements=["name"],
                set_=values,
                where=or_(Worker.instance == self._instance, Worker.stopped_at.is_not(None), Worker.is_silent()),
            )
            .returning(Worker.draining_since.is_not(None))
        )

    def _described(self) -> dict[str, Any]:
        gpus = [{"uuid": gpu.uuid, "name": gpu.name, "memory_bytes": gpu.memory_bytes} for gpu in self._host.gpus]
        return {
            "instance": self._instance,
            "host": self._host.name,
            "version": self._host.version,
            "queues": self._settings.queues,
            "slots": self._settings.slots,
            "cores": self._host.cores,
            "processor": self._host.processor,
            "memory_bytes": self._host.memory_bytes,
            "gpus": gpus,
            "lease_seconds": self._settings.lease_seconds,
        }

    def _row_of(self, instance: str) -> Update:
        return update(Worker).where(Worker.name == self._name, Worker.instance == instance)

    def _hear(self, *, draining: bool) -> None:
        resumed = self._draining and not draining
        if draining != self._draining:
            log.info("draining" if draining else "takes_jobs", worker=self._name)
        self._draining = draining
        if resumed:
            self._resumed()

    @property
    def _name(self) -> str:
        return self._settings.worker_name
