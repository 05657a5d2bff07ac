"""The one place of a process that reads the database for its streams: once per change of a job, for all readers."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from api.news import News
from api.problems import ProblemError
from api.streams import queries
from api.streams.backlog import Backlog
from api.streams.events import Event
from api.streams.failures import is_lost, is_slow
from api.streams.lab import Lab
from api.streams.position import Position
from api.streams.replays import Replays
from models.job import Job

log = structlog.get_logger(__name__)

_PAGE = 100  # events that are read at once
_MOST_EVENTS = 1_024
_MOST_BYTES = 1_048_576
_OPENING_SECONDS = 5.0
_READ_SECONDS = 2.0  # for a statement about one job, which takes milliseconds: all other jobs wait for it
_RETRY_SECONDS = 1.0
_REST_SECONDS = 15.0  # what cannot be read, or not in time, is left alone so long
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
        self._to_read: dict[UUID | None, None] = {}  # in order; None stands for a survey of all jobs
        self._to_ask_again: set[UUID | None] = set()
        self._resting: set[UUID | None] = set()  # could not be read a short while ago
        self._read_by: dict[UUID | None, list[asyncio.Future[None]]] = {}
        self._something_to_read = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._ending = False
        news.watch(self._told)

    async def __aenter__(self) -> "FanOut":
        self._tasks = [
            asyncio.create_task(self._read_on(), name="streams"),
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
        if job_id in self._resting:
            raise _unreadable()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._read_by.setdefault(job_id, []).append(done)
        self._ask(job_id)
        try:
            async with asyncio.timeout(_OPENING_SECONDS):
                await done
        except TimeoutError:
            retry = {"Retry-After": "1"}
            raise ProblemError(503, "database_unavailable", "The database does not answer.", retry) from None

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
            self._ask(job_id)

    def _doubt_all(self) -> None:
        for job_id in self._topics:
            self._ask(job_id)
        if self._lab is not None:
            self._ask(None)

    def _ask(self, job_id: UUID | None) -> None:
        if job_id not in self._resting:
            self._to_read[job_id] = None
            self._something_to_read.set()

    def _ask_again_soon(self, job_id: UUID | None) -> None:
        if not self._to_ask_again:
            asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._ask_again)
        self._to_ask_again.add(job_id)

    def _ask_again(self) -> None:
        while self._to_ask_again:
            self._ask(self._to_ask_again.pop())

    async def _doubt_on(self) -> None:
        while True:
            await asyncio.sleep(_DOUBT_SECONDS)
            self._doubt_all()

    async def _read_on(self) -> None:
        while True:
            await self._something_to_read.wait()
            self._something_to_read.clear()
            while self._to_read:
                job_id = next(iter(self._to_read))
                del self._to_read[job_id]
                await self._read_for_followers(job_id)

    async def _read_for_followers(self, job_id: UUID | None) -> None:
        asked_before = self._read_by.pop(job_id, [])
        if self._lab is None and job_id not in self._topics:
            return  # whoever asked has left
        try:
            async with self._sessions() as session:
                if job_id is None:
                    await queries.in_one_snapshot(session)
                    await self._survey(session)
                else:
                    await queries.in_one_snapshot(session, statement_seconds=_READ_SECONDS)
                    await self._read(session, job_id)
        except Exception as error:
            if is_lost(error):
                log.warning("stream_reading_interrupted", detail=str(error).splitlines()[0])
                self._read_by.setdefault(job_id, []).extend(asked_before)
                self._ask_again_soon(job_id)
                return
            if is_slow(error):
                log.warning("stream_slow", job=str(job_id))
                self._leave_alone(job_id, then_read=True)
            else:
                log.exception("stream_unreadable", job=str(job_id))
                self._leave_alone(job_id, then_read=False)
                self._end_streams(job_id)
            for done in _not_given_up(asked_before):
                done.set_exception(_unreadable())
        for done in _not_given_up(asked_before):
            done.set_result(None)

    async def _survey(self, session: AsyncSession) -> None:
        if self._lab is not None:
            being_read = {job_id: topic.backlog.place for job_id, topic in self._topics.items() if topic.backlog}
            for job_id in await self._lab.survey(session, being_read):
                self._ask(job_id)

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

    def _leave_alone(self, job_id: UUID | None, *, then_read: bool) -> None:
        """Do not read a job for a while, whatever is told of it."""

        def end_rest() -> None:
            self._resting.discard(job_id)
            if then_read:
                self._ask(job_id)

        self._resting.add(job_id)
        asyncio.get_running_loop().call_later(_REST_SECONDS, end_rest)

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


def _unreadable() -> ProblemError:
    retry = {"Retry-After": f"{_REST_SECONDS:.0f}"}
    return ProblemError(503, "database_unavailable", "What is stored cannot be read now.", retry)


def _not_given_up(asked: list[asyncio.Future[None]]) -> list[asyncio.Future[None]]:
    return [done for done in asked if not done.done()]
