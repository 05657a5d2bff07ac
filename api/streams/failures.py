"""What the errors of a database mean to a stream: it is away, it takes too long, or what is stored cannot be read."""

from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

DATABASE_AWAY = (DBAPIError, PoolTimeout)
# SQLSTATEs.
_LOST = ("08", "53", "57P")  # no connection, no room for one, the server stops or starts
_SLOW = ("57014", "55P03")  # the time for a statement, or for a lock, was over


def is_lost(error: Exception) -> bool:
    """Whether there was no connection: the same question may be answered on the next one."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, PoolTimeout)
    state = _state(error)
    refused = isinstance(error, OperationalError) and (state is None or state.startswith(_LOST))
    return error.connection_invalidated or refused


def is_slow(error: Exception) -> bool:
    """Whether the answer took too long: it may come in time later."""
    return isinstance(error, DBAPIError) and _state(error) in _SLOW


def _state(error: DBAPIError) -> str | None:
    state: str | None = getattr(error.orig, "sqlstate", None)
    return state
