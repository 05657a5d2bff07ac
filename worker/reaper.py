"""The reaper of a process: ends lost attempts, once the process itself was in touch with the jobs for a whole lease."""

import time
from uuid import UUID

from sqlalchemy.orm import Session, sessionmaker

from worker.leases import expire_leases
from worker.settings import WorkerSettings


class Reaper:
    """Who could not reach the jobs cannot know that a worker is silent: to all others the outage was the same.

    A worker that cannot renew has not necessarily died. As long as the database, or the way to it, was away for this
    process too, every worker is given a lease's length to report before its attempts are taken from it.
    """

    def __init__(self, sessions: sessionmaker[Session], settings: WorkerSettings, *, every_seconds: float) -> None:
        """Sweep through `sessions`; `every_seconds` is how often `sweep` is called while all is well."""
        self._sessions = sessions
        self._retry_limit = settings.retry_limit
        self._lease_seconds = settings.lease_seconds
        # Renewed at least twice in its length, no lease runs out in an outage of half of it.
        self._longest_gap = max(settings.lease_seconds / 2, 2 * every_seconds)
        self._in_touch_since = self._last_touch = -float("inf")

    def sweep(self) -> list[UUID]:
        """End the attempts whose leases have run out, and return their jobs; raise what the database raises."""
        with self._sessions.begin() as session:
            lost = expire_leases(
                session,
                retry_limit=self._retry_limit,
                lease_seconds=self._lease_seconds,
                in_touch_seconds=self._in_touch_seconds,
            )
        self._in_touch_seconds()  # a sweep that took long ends with a gap
        self._last_touch = time.monotonic()
        return lost

    def _in_touch_seconds(self) -> float:
        """Return for how long this process is in touch, which begins anew after a gap."""
        now = time.monotonic()
        if now - self._last_touch > self._longest_gap:
            self._in_touch_since = now
        return now - self._in_touch_since
