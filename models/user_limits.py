"""How many jobs of each user run while the line is played forward, and who may run one more."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from models.kind import Kinds


class UserLimits:
    """Counts; the jobs of a user at the limit do not compete within their kinds until another of that user ends."""

    def __init__(self, limits: Mapping[UUID, int], kinds: Kinds, running: Iterable[UUID | None]) -> None:
        """Begin with the users of the jobs that run; who is not in `limits` has none."""
        self._limits, self._kinds = limits, kinds
        self._running = Counter(running)
        self._full: set[UUID] = set()
        self._returned: list[UUID] = []
        for user in limits:
            self._settle(user)

    @property
    def returned(self) -> Sequence[UUID]:
        """Those who could run one more job again, one after the other."""
        return self._returned

    def is_full(self, user: UUID) -> bool:
        """Tell whether a user runs as many jobs as may run at once."""
        return user in self._full

    def count(self, user: UUID | None, more: int) -> bool:
        """Take note of so many more running jobs; return whether the user may now run one, or none, unlike before."""
        self._running[user] += more
        return user is not None and user in self._limits and self._settle(user)

    def _settle(self, user: UUID) -> bool:
        was_full, is_full = user in self._full, self._running[user] >= self._limits[user]
        if is_full and not was_full:
            self._full.add(user)
            self._kinds.set_aside(user)
        if was_full and not is_full:
            self._full.discard(user)
            self._returned.append(user)
            self._kinds.bring_back(user)
        return is_full != was_full
