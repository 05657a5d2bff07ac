"""News of changed jobs, as the database notifies them, fanned out in memory."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from uuid import UUID

import structlog

log = structlog.get_logger(__name__)


class News:
    """Wakes whoever waits for a job to change; after a break everybody, to make good what was missed."""

    def __init__(self) -> None:
        """Nobody waits."""
        self.ending = False  # the process stops: whoever waits answers with what there is
        self._waiting: defaultdict[UUID, set[asyncio.Event]] = defaultdict(set)
        self._watching: list[Callable[[UUID | None], None]] = []

    def heard(self, payload: str) -> None:
        """Take a notification: the id of a job that has changed."""
        try:
            job_id = UUID(payload)
        except ValueError:
            log.warning("news_unreadable", payload=payload)
        else:
            self._tell(job_id)

    async def tell(self, job_ids: Iterable[UUID]) -> None:
        """Tell this process of jobs that were just stored; all processes are told when something happens to them.

        A notification would make every submission wait for the one before: Postgres commits those one after another.
        """
        for job_id in job_ids:
            self._tell(job_id)

    def doubt_callers(self) -> None:
        """Wake everybody who waits, to ask again whether they may: what tokens allow has changed."""
        self._wake_all()

    def hear(self, hears: bool) -> None:
        """Say whether notifications are heard from now on; what happened before may have been missed."""
        if hears:
            self._wake_all()
            for watch in self._watching:
                watch(None)

    def watch(self, told: Callable[[UUID | None], None]) -> None:
        """Call a function with the id of each job that changes, and with None when any job may have."""
        self._watching.append(told)

    @contextmanager
    def of(self, job_id: UUID) -> Iterator[asyncio.Event]:
        """Give an event that is set whenever the job may have changed; read the database after this, not before.

        It is set when what tokens allow has changed, too, and when the process stops: `ending` tells.
        """
        event = asyncio.Event()
        self._waiting[job_id].add(event)
        try:
            yield event
        finally:
            self._waiting[job_id].discard(event)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    def end(self) -> None:
        """Wake everybody, because the process stops."""
        self.ending = True
        self._wake_all()

    def _tell(self, job_id: UUID) -> None:
        self._wake(job_id)
        for watch in self._watching:
            watch(job_id)

    def _wake_all(self) -> None:
        for job_id in list(self._waiting):
            self._wake(job_id)

    def _wake(self, job_id: UUID) -> None:
        for event in self._waiting.get(job_id, ()):
            event.set()
