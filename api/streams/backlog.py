"""The newest events of a stream, kept once for all its readers: each of them holds a place in it, no queue."""

from collections import deque
from collections.abc import Hashable, Iterable
from itertools import islice
from typing import Generic, Protocol, TypeVar


class Written(Protocol):
    """What is kept: something with its bytes."""

    @property
    def wire(self) -> bytes:
        """What is sent."""


Place = TypeVar("Place", bound=Hashable)
Item = TypeVar("Item", bound=Written)


def first_bytes(items: Iterable[Item], most_bytes: int) -> list[Item]:
    """Return the first items that have so many bytes together, one at least where there is one."""
    taken: list[Item] = []
    size = 0
    for item in items:
        size += len(item.wire)
        if taken and size > most_bytes:
            break
        taken.append(item)
    return taken


class Backlog(Generic[Place, Item]):
    """Items between places; bounded in number and bytes, whatever its readers do."""

    def __init__(self, start: Place, *, most: int, most_bytes: int) -> None:
        """Nothing has happened since the place `start`."""
        self.place = start
        self._most = most
        self._most_bytes = most_bytes
        self._items: deque[tuple[Place, Item]] = deque()  # each with the place before it
        self._size = 0
        self._dropped = 0
        self._number_at: dict[Place, int] = {start: 0}  # of the item that follows a place, counted from the first ever

    def append(self, place: Place, item: Item) -> None:
        """Add an item and the place after it; beyond the bounds the oldest items go."""
        self._items.append((self.place, item))
        self._size += len(item.wire)
        self.place = place
        self._number_at[place] = self._dropped + len(self._items)
        while len(self._items) > self._most or (self._size > self._most_bytes and len(self._items) > 1):
            before, oldest = self._items.popleft()
            del self._number_at[before]
            self._size -= len(oldest.wire)
            self._dropped += 1

    def after(self, place: Place, most_bytes: int) -> list[Item] | None:
        """Return what follows a place, so many bytes of it (one item at least); None where that is no longer known."""
        number = self._number_at.get(place)
        if number is None:
            return None
        return first_bytes((item for _, item in islice(self._items, number - self._dropped, None)), most_bytes)
