"""Replays that are asked for by many at once, as after a restart of the process, and read for all of them together."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

from api.streams.backlog import Backlog
from api.streams.events import Event
from api.streams.position import Position

_FEWEST_EVENTS = 100  # of a page, and of the first, when it is not known how long the events are
_MOST_EVENTS = 1_000
_PAGE_BYTES = 524_288
_KEPT_PAGES = 2
_KEPT_SECONDS = 5.0

# Reads what lies between two positions: so many events of it.
Replay = Callable[[Position, Position, int], Awaitable[list[Event]]]


class Replayed(NamedTuple):
    """Events, and where a reader stands after them."""

    events: list[Event]
    position: Position


@dataclass(frozen=True, eq=False)
class _Page:
    events: Backlog[Position, Event]
    upto: Position
    complete: bool  # nothing follows up to there

    def after(self, position: Position, most_bytes: int) -> Replayed | None:
        """Return what follows a position in this page; None where the position is none of it."""
        taken = self.events.after(position, most_bytes)
        if taken is None:
            return None
        end = taken[-1].position if taken else position
        # Rows may be gone by now (old pieces of the log, an epoch that was recorded again): the target is reached.
        return Replayed(taken, self.upto if self.complete and end == self.events.place else end)


class Replays:
    """The replays of one job that are being read now, and for a moment the newest pages, which no reader holds."""

    def __init__(self) -> None:
        """Nobody replays."""
        self._reading: dict[tuple[Position, Position], asyncio.Future[_Page]] = {}
        self._pages: deque[_Page] = deque(maxlen=_KEPT_PAGES)
        self._limit = _FEWEST_EVENTS

    async def after(self, start: Position, upto: Position, replay: Replay, most_bytes: int) -> Replayed:
        """Return what follows `start` up to `upto`, so many bytes of it, one event at least where there is one."""
        for page in self._pages:
            replayed = page.after(start, most_bytes)
            if replayed is not None and replayed.events:
                return replayed
        place = (start, upto)
        if place not in self._reading:
            self._reading[place] = asyncio.ensure_future(self._read(start, upto, replay))
            self._reading[place].add_done_callback(lambda _: self._reading.pop(place))
        # Shielded: a reader that leaves does not take it away from the others.
        page = await asyncio.shield(self._reading[place])
        replayed = page.after(start, most_bytes)
        assert replayed is not None, "the page starts there"
        return replayed

    async def _read(self, start: Position, upto: Position, replay: Replay) -> _Page:
        limit = self._limit
        events = await replay(start, upto, limit)
        size = sum(len(event.wire) for event in events)
        page = _Page(Backlog(start, most=len(events), most_bytes=size), upto, complete=len(events) < limit)
        for event in events:
            page.events.append(event.position, event)
        if events:
            self._limit = max(_FEWEST_EVENTS, min(_MOST_EVENTS, _PAGE_BYTES * len(events) // size))
            self._pages.append(page)
            asyncio.get_running_loop().call_later(_KEPT_SECONDS, self._forget, page)
        return page

    def _forget(self, page: _Page) -> None:
        if page in self._pages:
            self._pages.remove(page)
