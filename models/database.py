"""Engines for the two kinds of process: asynchronous for the API, synchronous for workers."""

from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from models.settings import Settings

_CONNECT_SECONDS = 5
_KEEPALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 15_000}


def _connect_args(statement_timeout_seconds: float) -> dict[str, object]:
    milliseconds = int(statement_timeout_seconds * 1000)
    return {
        "connect_timeout": _CONNECT_SECONDS,
        "client_encoding": "utf8",
        "options": f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds} -c timezone=UTC",
        **_KEEPALIVE,
    }


def async_engine(settings: Settings, *, pool_size: int, statement_timeout_seconds: float = 10) -> AsyncEngine:
    """Return the API's engine; a statement that runs or waits longer than the timeout is cancelled by the server."""
    return create_async_engine(
        settings.database_url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=5,
        pool_pre_ping=True,
        connect_args=_connect_args(statement_timeout_seconds),
    )


def async_sessions(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    """Return the factory of the API's transactions; rows stay readable after the commit."""
    return async_sessionmaker(engine, expire_on_commit=False)


def sync_engine(settings: Settings, *, pool_size: int, statement_timeout_seconds: float = 10) -> Engine:
    """Return a worker's engine; a statement that runs or waits longer than the timeout is cancelled by the server."""
    return create_engine(
        settings.database_url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=5,
        pool_pre_ping=True,
        connect_args=_connect_args(statement_timeout_seconds),
    )


def sync_sessions(engine: Engine) -> sessionmaker[Session]:
    """Return the factory of short transactions on this engine; rows stay readable after the commit."""
    return sessionmaker(engine, expire_on_commit=False)
