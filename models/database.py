"""Engines for the two kinds of process: asynchronous for the API, synchronous for workers."""

from typing import Any

from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from models.settings import Settings

_CONNECT_SECONDS = 5
_POOL_SECONDS = 5
_STATEMENT = "10s"
KEEPALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 15_000}


def async_engine(settings: Settings, *, pool_size: int) -> AsyncEngine:
    """Return the API's engine."""
    return create_async_engine(settings.database_url, **_options(pool_size))


def async_sessions(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    """Return the factory of the API's transactions; rows stay readable after the commit."""
    return async_sessionmaker(engine, expire_on_commit=False)


def sync_engine(settings: Settings, *, pool_size: int) -> Engine:
    """Return a worker's engine."""
    return create_engine(settings.database_url, **_options(pool_size))


def sync_sessions(engine: Engine) -> sessionmaker[Session]:
    """Return the factory of short transactions on this engine; rows stay readable after the commit."""
    return sessionmaker(engine, expire_on_commit=False)


def _options(pool_size: int) -> dict[str, Any]:
    """Bound every wait: for a connection, for the network, and, by the server, for a statement or a lock."""
    return {
        "pool_size": pool_size,
        "max_overflow": 0,
        "pool_timeout": _POOL_SECONDS,
        "pool_pre_ping": True,
        "connect_args": {
            "connect_timeout": _CONNECT_SECONDS,
            "client_encoding": "utf8",
            "options": f"-c statement_timeout={_STATEMENT} -c lock_timeout={_STATEMENT} -c timezone=UTC",
            **KEEPALIVE,
        },
    }
