"""The one place of a process that reads the database for its streams: once per change of a job, for all readers."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from api.news import News
from api.streams import queries
from api.streams.agenda import Agenda
from api.streams.backlog import Backlog
from api.streams.events import Event
from api.streams.lab import Lab
from api.streams.position import Position
from api.streams.replays import Replays
from models.job import Job

_PAGE = 100  # events that are read at once
_MOST_EVENTS = 1_024
_MOST_BYTES = 1_048_576
_READ_SECONDS = 2.0  # for a statement about one job, which takes milliseconds: all other jobs wait for it
_DOUBT_SECONDS = 15.0  # what nobody told of is found after this long
_LINGER_SECONDS = 60.0  # the stream of all jobs goes on so long without readers, for those who come again


class Waiter:
    """Somebody with a stream open: woken when there may be something to send, or to ask again whether they may."""

    def __init__(self) -> None:
        """Nothing has happened yet."""
        self.wake = asyncio.Event()
        self.ending = False  # the client has gone, the process stops, or the job cannot be shown
        self.doubted = False  # what the caller may do has to be asked again

    def end(self) -> None:
        """Let the stream end at once."""
        self.ending = True
        self.wake.set()

    def doubt(self) -> None:
        """Let the stream ask again whether its caller may go on."""
        self.doubted = True
        self.wake.set()


class Topic:
    """One job that somebody follows here; its backlog is there once the job was read."""

    def __init__(self) -> None:
        """Nobody follows yet."""
        self.waiters: set[Waiter] = set()
        self.backlog: Backlog[Position, Event] | None = None
        self.replays = Replays()


class FanOut:
    """Reads the jobs that have news, one after another, and wakes whoever follows them."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession], news: News) -> None:
        """Works once entered as a context."""
        self._sessions = sessions
        self._topics: dict[UUID, Topic] = {}
        self._lab: Lab | None = None
        self._lab_waiters: set[Waiter] = set()
        self._everybody: set[Waiter] = set()
        self._agenda = Agenda(self._read_for_followers, give_up=self._end_streams)
        self._tasks: list[asyncio.Task[None]] = []
        self._ending = False
        news.watch(self._told)

    async def __aenter__(self) -> "FanOut":
        self._tasks = [
            asyncio.create_task(self._agenda.work(), name="streams"),
            asyncio.create_task(self._doubt_on(), name="streams-doubt"),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @contextmanager
    def follow(self, job_id: UUID, waiter: Waiter) -> Iterator[Topic]:
        """Wake a waiter for each event of a job."""
        topic = self._topics.setdefault(job_id, Topic())
        with self._open(waiter, topic.waiters):
            try:
                yield topic
            finally:
                topic.waiters.discard(waiter)
                if not topic.waiters and self._topics.get(job_id) is topic:
                    del self._topics[job_id]

    @contextmanager
    def follow_all(self, waiter: Waiter) -> Iterator[Lab]:
        """Wake a waiter for each event of any job."""
        if self._lab is None:
            self._lab = Lab()
        lab = self._lab
        with self._open(waiter, self._lab_waiters):
            try:
                yield lab
            finally:
                self._lab_waiters.discard(waiter)
                asyncio.get_running_loop().call_later(_LINGER_SECONDS, self._drop_unused, lab)

    async def read_now(self, job_id: UUID | None) -> None:
        """Return when a job, or with None all, has been read anew; raise ProblemError (503) where it cannot be."""
        await self._agenda.read_now(job_id)

    def doubt_callers(self) -> None:
        """Let every stream ask again whether its caller may go on: what tokens allow has changed."""
        for waiter in self._everybody:
            waiter.doubt()

    def end(self) -> None:
        """End every stream, and those that are about to open, because the process stops."""
        self._ending = True
        for waiter in self._everybody:
            waiter.end()

    @contextmanager
    def _open(self, waiter: Waiter, among: set[Waiter]) -> Iterator[None]:
        among.add(waiter)
        self._everybody.add(waiter)
        if self._ending:
            waiter.end()
        try:
            yield
        finally:
            self._everybody.discard(waiter)

    def _drop_unused(self, lab: Lab) -> None:
        if self._lab is lab and not self._lab_waiters:
            self._lab = None

    def _told(self, job_id: UUID | None) -> None:
        """Take news of a job; None says that any may have changed."""
        if job_id is None:
            self._doubt_all()
        elif job_id in self._topics or self._lab is not None:
            self._agenda.ask(job_id)

    def _doubt_all(self) -> None:
        for job_id in self._topics:
            self._agenda.ask(job_id)
        if self._lab is not None:
            self._agenda.ask(None)

    async def _doubt_on(self) -> None:
        while True:
            await asyncio.sleep(_DOUBT_SECONDS)
            self._doubt_all()

    async def _read_for_followers(self, job_id: UUID | None) -> bool:
        """Read a job, or with None survey all; return whether anybody follows."""
        if self._lab is None and job_id not in self._topics:
            return False
        async with self._sessions() as session:
            if job_id is None:
                await queries.in_one_snapshot(session)
                await self._survey(session)
            else:
                await queries.in_one_snapshot(session, statement_seconds=_READ_SECONDS)
                await self._read(session, job_id)
        return True

    async def _survey(self, session: AsyncSession) -> None:
        if self._lab is not None:
            being_read = {job_id: topic.backlog.place for job_id, topic in self._topics.items() if topic.backlog}
            for job_id in await self._lab.survey(session, being_read):
                self._agenda.ask(job_id)

    async def _read(self, session: AsyncSession, job_id: UUID) -> None:
        """Read what has happened to a job since, and hand it to whoever follows it, or all."""
        topic, lab = self._topics.get(job_id), self._lab if self._lab and self._lab.opened else None
        start = await self._start(session, job_id, topic, lab)
        while start is not None:
            events = await queries.events_after(session, job_id, start, limit=_PAGE)
            for event in events:
                if topic is not None and topic.backlog is not None:
                    topic.backlog.append(event.position, event)
                if lab is not None:
                    lab.publish(job_id, event)
            start = events[-1].position if len(events) >= _PAGE else None
            if events:
                self._wake(topic, lab)

    async def _start(
        self, session: AsyncSession, job_id: UUID, topic: Topic | None, lab: Lab | None
    ) -> Position | None:
        """Return how far a job was read, for a topic that is new after opening it; None where nobody wants to know."""
        known = topic.backlog.place if topic and topic.backlog else lab.position_of(job_id) if lab else None
        if known is None:
            found = await queries.standings(session, Job.id == job_id)
            if not found:
                return None
            known = lab.take_in(found[0]) if lab else None
            if known is None and topic is not None:
                known = found[0].position
        if topic is not None and topic.backlog is None and known is not None:
            topic.backlog = Backlog(known, most=_MOST_EVENTS, most_bytes=_MOST_BYTES)
        return known

    def _wake(self, topic: Topic | None, lab: Lab | None) -> None:
        for waiter in topic.waiters if topic else ():
            waiter.wake.set()
        for waiter in self._lab_waiters if lab else ():
            waiter.wake.set()

    def _end_streams(self, job_id: UUID | None) -> None:
        """End the streams of a job that cannot be read, not those of others; that of all jobs tells of a gap."""
        if job_id is None:
            ending = self._lab_waiters
        else:
            topic = self._topics.pop(job_id, None)
            ending = topic.waiters if topic else set()
            if self._lab is not None:
                self._lab.leave_out(job_id)
                self._wake(None, self._lab)
        for waiter in ending:
            waiter.end()
