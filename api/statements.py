"""Connections for what is asked for most, a statement each: psycopg alone, at a tenth of what a session costs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession

from api.deadline import within_limit
from models.database import CONNECTION, POOL_SECONDS, has_ended

Connection = psycopg.AsyncConnection[tuple[Any, ...]]


async def connection_of(session: AsyncSession) -> Connection:
    """Return the driver's connection of a session: its statements belong to the session's transaction."""
    connected = await (await session.connection()).get_raw_connection()
    assert isinstance(connected.driver_connection, psycopg.AsyncConnection), "the only driver that is used"
    return connected.driver_connection


class Statements:
    """At most so many connections, made when they are needed; who finds all of them taken waits, for some seconds."""

    def __init__(self, database_url: str, size: int) -> None:
        """Connect to the database at this libpq URL, once asked for a connection."""
        self._conninfo = make_conninfo(database_url, **CONNECTION)
        self._turns = asyncio.Semaphore(size)
        self._idle: list[Connection] = []

    async def __aenter__(self) -> "Statements":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._idle:
            await self._idle.pop().close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Give a connection on which each statement is a transaction; raise PoolTimeout or psycopg.OperationalError."""
        try:
            async with asyncio.timeout(POOL_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            raise PoolTimeout(f"no connection was free for {POOL_SECONDS} s") from None
        try:
            async with within_limit():
                connection = await self._live_connection()
                try:
                    yield connection
                finally:
                    if connection.info.transaction_status is TransactionStatus.IDLE:
                        self._idle.append(connection)
                    else:  # broken, or left in the middle of something
                        await connection.close()
        finally:
            self._turns.release()

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Connection]:
        """Give a connection whose statements all see the database as it is at the first of them."""
        async with self.connection() as connection, connection.transaction():
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield connection

    async def _live_connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not has_ended(connection):
                return connection
            await connection.close()
        return await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True)
