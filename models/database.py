"""Engines for the two kinds of process: asynchronous for the API, synchronous for workers."""

import select as waiting
from datetime import datetime
from typing import Any

import psycopg
from sqlalchemy import Engine, create_engine, event, func, select
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

from models.settings import Settings

_CONNECT_SECONDS = 5
POOL_SECONDS = 5
_STATEMENT = "10s"
# A suspended process must not keep a job's row locked: a worker's for much less than a lease, or its jobs are nobody's.
_IDLE_OF_API, _IDLE_OF_WORKER = "30s", "5s"
KEEPALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 15_000}
# Every wait is bounded: for the network, and, by the server, for a statement, a lock, or the next statement.
CONNECTION: dict[str, Any] = {
    "connect_timeout": _CONNECT_SECONDS,
    "client_encoding": "utf8",
    "options": f"-c statement_timeout={_STATEMENT} -c lock_timeout={_STATEMENT} -c timezone=UTC"
    f" -c idle_in_transaction_session_timeout={_IDLE_OF_API}",
    **KEEPALIVE,
}


def async_engine(settings: Settings, *, pool_size: int) -> AsyncEngine:
    """Return the API's engine."""
    engine = create_async_engine(settings.database_url, connect_args=CONNECTION, **_options(pool_size))
    event.listen(engine.sync_engine, "checkout", _refuse_ended)
    return engine


def async_sessions(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    """Return the factory of the API's transactions; rows stay readable after the commit."""
    return async_sessionmaker(engine, expire_on_commit=False)


async def database_now(session: AsyncSession) -> datetime:
    """Return the time by the database's clock, which is the only one that counts."""
    now: datetime = (await session.scalars(select(func.clock_timestamp()))).one()
    return now


def sync_engine(settings: Settings, *, pool_size: int) -> Engine:
    """Return a worker's engine."""
    options = f"{CONNECTION['options']} -c idle_in_transaction_session_timeout={_IDLE_OF_WORKER}"
    engine = create_engine(settings.database_url, connect_args=CONNECTION | {"options": options}, **_options(pool_size))
    event.listen(engine, "checkout", _refuse_ended)
    return engine


def sync_sessions(engine: Engine) -> sessionmaker[Session]:
    """Return the factory of short transactions on this engine; rows stay readable after the commit."""
    return sessionmaker(engine, expire_on_commit=False)


def _options(pool_size: int) -> dict[str, Any]:
    return {"pool_size": pool_size, "max_overflow": 0, "pool_timeout": POOL_SECONDS}


def has_ended(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    """Tell whether the server has ended an idle connection: nothing but that is to be read from it."""
    if connection.closed:
        return True
    poll = waiting.poll()  # not select(): a process may have more files than that takes
    poll.register(connection.fileno(), waiting.POLLIN)
    return bool(poll.poll(0))


def _refuse_ended(_: Any, record: ConnectionPoolEntry, __: Any) -> None:
    """Let the pool connect anew where the server has ended a connection; a ping would cost each transaction a trip."""
    connection = record.driver_connection
    assert isinstance(connection, psycopg.Connection | psycopg.AsyncConnection), "the only driver that is used"
    if has_ended(connection):
        raise DisconnectionError("the server has ended this connection")
