"""Where requests stand in line for checks that take long: one at a time, every user's in turn, without a connection."""

import asyncio
from collections.abc import Callable
from typing import TypeVar
from uuid import UUID
from weakref import WeakValueDictionary

from api.problems import ProblemError

MAX_IN_LINE = 16  # of one user; each keeps its body in memory

_RETRY_AFTER_SECONDS = 1

Result = TypeVar("Result")


class Checks:
    """The line of one process.

    Two checks at once would take the interpreter from all other requests, and threads from those that need them. Only
    the first of each user's line waits for its turn, so nobody waits for more than one check of everybody else.
    """

    def __init__(self) -> None:
        """Nobody waits yet."""
        self._turn = asyncio.Semaphore(1)
        self._lines: WeakValueDictionary[UUID, _Line] = WeakValueDictionary()

    async def run(self, user_id: UUID, check: Callable[[], Result]) -> Result:
        """Return what a check of this user's returns, made in a thread; raise ProblemError (429 `rate_limited`).

        To be called before anything is asked of the database, so that no connection waits with it.
        """
        line = self._lines.setdefault(user_id, _Line())
        if line.length == MAX_IN_LINE:
            detail = f"{MAX_IN_LINE} long requests of yours are being checked already; try again when one is answered."
            raise ProblemError(429, "rate_limited", detail, {"Retry-After": str(_RETRY_AFTER_SECONDS)})
        line.length += 1
        try:
            async with line.first, self._turn:
                return await asyncio.to_thread(check)
        finally:
            line.length -= 1


class _Line:
    """The checks of one user; forgotten when there is none."""

    def __init__(self) -> None:
        self.first = asyncio.Semaphore(1)
        self.length = 0
