"""What a thread does while a server does not answer: it says so, tries ever more rarely, and says when it is back."""

import time

import structlog
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

log = structlog.get_logger(__name__)

# What passes by itself. Any other error of the database would come again at each try, under a lease renewed for ever.
DATABASE_AWAY = (OperationalError, InterfaceError, InternalError, PoolTimeout)
# For who holds nothing meanwhile: tables that are not there yet are waited for like a server that is not.
DATABASE_NOT_READY = (DBAPIError, PoolTimeout)

_FIRST_SECONDS = 0.25
_LONGEST_SECONDS = 4.0  # a job that waits starts within ten seconds of a server's return
_SAY_SECONDS = 60.0  # an outage is mentioned this often, not at each try


class Outage:
    """The times in which one server was away, as one thread met them."""

    def __init__(self, server: str, *, longest_seconds: float = _LONGEST_SECONDS) -> None:
        """Log as `<server>_away` and `<server>_back`; between two tries are at most `longest_seconds`."""
        self._server = server
        self._longest = longest_seconds
        self._since: float | None = None
        self._wait = 0.0
        self._next_try = 0.0
        self._next_word = 0.0

    @property
    def is_due(self) -> bool:
        """Whether the server may be asked: it is there, or was left alone for long enough."""
        return time.monotonic() >= self._next_try

    @property
    def seconds(self) -> float:
        """For how long the server has been away; 0 while it is there."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def goes_on(self, error: Exception) -> float:
        """Take note of a try that failed, and return for how many seconds to leave the server alone."""
        now = time.monotonic()
        if self._since is None:
            self._since, self._wait, self._next_word = now, _FIRST_SECONDS / 2, now
        self._wait = min(self._wait * 2, self._longest)
        self._next_try = now + self._wait
        if now >= self._next_word:
            self._next_word = now + _SAY_SECONDS
            detail = (str(error) or type(error).__name__).splitlines()[0]
            log.warning(f"{self._server}_away", detail=detail, away_seconds=round(now - self._since))
        return self._wait

    def is_over(self) -> None:
        """Take note of an answer."""
        if self._since is not None:
            log.info(f"{self._server}_back", away_seconds=round(time.monotonic() - self._since, 1))
            self._since, self._next_try = None, 0.0
