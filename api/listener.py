"""Hears what the database notifies: one connection of its own, made anew whenever it breaks."""

import asyncio
from collections.abc import Callable, Mapping
from types import TracebackType

import psycopg
import structlog
from psycopg import sql
from psycopg.conninfo import make_conninfo

from models.database import KEEPALIVE

log = structlog.get_logger(__name__)

_RECONNECT_SECONDS = 1.0
_CONNECT_SECONDS = 5


class Listener:
    """Calls a function for each notification on a channel, and says when it can hear and when it cannot."""

    def __init__(
        self, database_url: str, channels: Mapping[str, Callable[[str], None]], on_hearing: Callable[[bool], None]
    ) -> None:
        """Listen on the database at this libpq URL, once entered as a context.

        `channels` maps a channel to what is called with each payload. `on_hearing(True)` is called when everything that
        happens from now on will be heard of, and `on_hearing(False)` when that is over.
        """
        self._url = database_url
        self._channels = channels
        self._on_hearing = on_hearing
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Listener":
        self._task = asyncio.create_task(self._listen(), name="listener")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None, "entered before"
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _listen(self) -> None:
        while True:
            try:
                await self._listen_once()
            except psycopg.Error as error:
                said = str(error).splitlines()
                log.warning("listening_interrupted", detail=said[0] if said else type(error).__name__)
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _listen_once(self) -> None:
        conninfo = make_conninfo(self._url, connect_timeout=_CONNECT_SECONDS, **KEEPALIVE)
        async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
            for channel in self._channels:
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            self._on_hearing(True)
            try:
                async for notification in connection.notifies():
                    self._channels[notification.channel](notification.payload)
            finally:
                self._on_hearing(False)
