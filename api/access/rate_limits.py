"""The rate limit: one bucket per token, in this process's memory (N processes allow N times as much)."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

_MOST_BUCKETS = 10_000


@dataclass(frozen=True)
class Standing:
    """Where a caller stands: requests left now, seconds until all are back, and, where refused, until the next one."""

    remaining: int
    reset_seconds: int
    retry_after_seconds: int | None


class RateLimits:
    """Token buckets: each holds `burst` requests and gains `per_minute` of them in a minute."""

    def __init__(self, per_minute: int, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self.per_minute = per_minute
        self.burst = burst
        self.policy = f"{per_minute};w=60;burst={burst}"
        self._per_second = per_minute / 60
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # requests left, at this time

    def take(self, key: str) -> Standing:
        """Count one request of this caller; a refused one costs nothing."""
        now = self._clock()
        left, before = self._buckets.get(key, (float(self.burst), now))
        left = min(float(self.burst), left + (now - before) * self._per_second)
        if left < 1:
            return Standing(0, self._seconds(self.burst - left), max(1, self._seconds(1 - left)))
        if key not in self._buckets and len(self._buckets) >= _MOST_BUCKETS:
            self._buckets.clear()  # whoever was counted starts anew: memory stays bounded
        self._buckets[key] = (left - 1, now)
        return Standing(int(left - 1), self._seconds(self.burst - left + 1), None)

    def _seconds(self, requests: float) -> int:
        return ceil(requests / self._per_second)
