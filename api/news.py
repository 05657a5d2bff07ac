"""News of changed jobs: one LISTEN connection per process, fanned out in memory."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from uuid import UUID

import psycopg
import structlog
from psycopg import sql
from psycopg.conninfo import make_conninfo

from models.database import KEEPALIVE
from models.job import CHANNEL

log = structlog.get_logger(__name__)

_RECONNECT_SECONDS = 1.0
_CONNECT_SECONDS = 5


class News:
    """Wakes whoever waits for a job to change; after a reconnect everybody, to make good what was missed."""

    def __init__(self, database_url: str) -> None:
        """Listen on the database at this libpq URL, once entered as a context."""
        self._url = database_url
        self._waiting: defaultdict[UUID, set[asyncio.Event]] = defaultdict(set)
        self._listener: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "News":
        self._listener = asyncio.create_task(self._listen(), name="news")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._listener is not None, "entered before"
        self._listener.cancel()
        await asyncio.gather(self._listener, return_exceptions=True)

    @contextmanager
    def of(self, job_id: UUID) -> Iterator[asyncio.Event]:
        """Give an event that is set whenever the job may have changed; read the database after this, not before."""
        event = asyncio.Event()
        self._waiting[job_id].add(event)
        try:
            yield event
        finally:
            self._waiting[job_id].discard(event)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    async def _listen(self) -> None:
        while True:
            try:
                await self._listen_once()
            except psycopg.Error as error:
                log.warning(
                    "news_interrupted", detail=str(error).splitlines()[0] if str(error) else type(error).__name__
                )
                await asyncio.sleep(_RECONNECT_SECONDS)

    async def _listen_once(self) -> None:
        conninfo = make_conninfo(self._url, connect_timeout=_CONNECT_SECONDS, **KEEPALIVE)
        connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
        async with connection:
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
            for job_id in list(self._waiting):  # what happened while nobody listened
                self._tell(job_id)
            async for notification in connection.notifies():
                try:
                    self._tell(UUID(notification.payload))
                except ValueError:
                    log.warning("news_unreadable", payload=notification.payload)

    def _tell(self, job_id: UUID) -> None:
        for event in self._waiting.get(job_id, ()):
            event.set()
