"""The one place that Prometheus asks: what this process has answered, and what the database says of the lab."""

import asyncio
import time

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics, generate_latest
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from api.monitoring import queries
from api.monitoring.figures import Figures
from api.monitoring.traffic import Traffic

log = structlog.get_logger(__name__)

disable_created_metrics()  # type: ignore[no-untyped-call] # twice as many lines, for a format that nobody asks for

_FRESH_SECONDS = 3.0  # however many ask, the database is asked, and the text is written, once in this time
_ANSWER_SECONDS = 3.0  # a small part of what Prometheus waits, which is 10 by default
# An id is given before its transaction ends: for so long after a greater one was seen, a smaller one is looked out for.
_SETTLED_SECONDS = 15.0


class Monitor:
    """Of one process, from before it starts; figures of the database are read when somebody asks."""

    def __init__(self) -> None:
        """Begin to count."""
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.traffic = Traffic(self._registry)
        self._figures = Figures(self._registry)
        self._asking = asyncio.Lock()
        self._looking: asyncio.Task[None] | None = None
        self._fresh_until = 0.0
        self._text = b""
        self._floor: int | None = None  # what has a greater id is counted
        self._seen: dict[int, float] = {}  # ids above the floor that are counted, and when that was

    async def text(self, sessions: async_sessionmaker[AsyncSession]) -> bytes:
        """Return every figure in Prometheus' text format, a few seconds old at most.

        Where the database does not answer in 3 s, `trainyard_database_up` is 0, and what only it knows is left out.
        """
        async with self._asking:
            if time.monotonic() >= self._fresh_until:
                await self._look_soon(sessions)
                self._text = generate_latest(self._registry)
                self._fresh_until = time.monotonic() + _FRESH_SECONDS
            return self._text

    async def _look_soon(self, sessions: async_sessionmaker[AsyncSession]) -> None:
        """Look, but give up where it takes long: to leave a server that does not move takes longer than to ask it."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(sessions))
        _, late = await asyncio.wait([self._looking], timeout=_ANSWER_SECONDS)
        if late:
            if not self._looking.cancelling():  # a second time would break off the tidying of the first
                self._looking.cancel()
            self._show_away(f"no answer within {_ANSWER_SECONDS:g} s")

    async def _look(self, sessions: async_sessionmaker[AsyncSession]) -> None:
        try:
            async with sessions() as session:
                standing = await queries.standing(session)
                new = await self._new(session)
                self._figures.show(standing)
                self._figures.count(new)
        except (DBAPIError, PoolTimeout, TimeoutError) as error:
            self._show_away(str(error).partition("\n")[0] or type(error).__name__)

    def _show_away(self, detail: str) -> None:
        log.warning("database_away", detail=detail)
        self._figures.show_away()

    async def _new(self, session: AsyncSession) -> list[queries.Happening]:
        """Return what has happened and was not returned before."""
        if self._floor is None:
            self._floor = await queries.newest(session)
            return []
        new = await queries.happenings(session, after=self._floor, seen=self._seen)
        now = time.monotonic()
        self._seen |= dict.fromkeys((one.id for one in new), now)
        settled = [number for number, since in self._seen.items() if since < now - _SETTLED_SECONDS]
        self._floor = max(settled, default=self._floor)
        self._seen = {number: since for number, since in self._seen.items() if number > self._floor}
        return new
