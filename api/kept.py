"""Things kept in memory up to a bound, those that were not asked for longest dropped first."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

_SHARE = 8


class Kept(Generic[Key, Value]):
    """Values by their keys; together they cost no more than `most`, in any unit."""

    def __init__(self, most: int) -> None:
        """Keep nothing yet."""
        self._most = most
        self._entries: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._cost = 0

    def get(self, key: Key) -> Value | None:
        """Return what is kept under a key."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def drop(self, key: Key) -> None:
        """Keep nothing under a key any more."""
        if key in self._entries:
            self._cost -= self._entries.pop(key)[1]

    def put(self, key: Key, value: Value, cost: int) -> None:
        """Keep a value in the place of the one before, unless it alone would take an eighth of the room."""
        self.drop(key)
        if cost > self._most // _SHARE:
            return
        self._entries[key] = (value, cost)
        self._cost += cost
        while self._cost > self._most:
            self._cost -= self._entries.popitem(last=False)[1][1]
