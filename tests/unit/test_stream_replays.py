"""Replays: exact whatever the size of their pages, read in few of them, and shared by those who come together."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from api.streams.events import Event, Kind
from api.streams.position import Position
from api.streams.replays import Replays

CHUNK = 65_536


class Stored:
    """A job's epochs, each with a body of so many bytes, and how often they were read."""

    def __init__(self, sizes: list[int]) -> None:
        self.events = [
            Event.of(Kind.EPOCH, b"x" * size, Position(epoch=number)) for number, size in enumerate(sizes, start=1)
        ]
        self.pages: list[int] = []

    async def read(self, start: Position, upto: Position, limit: int) -> list[Event]:
        page = self.events[start.epoch : min(upto.epoch, start.epoch + limit)]
        self.pages.append(sum(len(event.wire) for event in page))
        await asyncio.sleep(0)
        return page


async def replayed(replays: Replays, stored: Stored, upto: Position, most_bytes: int = CHUNK) -> list[Event]:
    taken: list[Event] = []
    position = Position()
    while position != upto:
        events, position = await replays.after(position, upto, stored.read, most_bytes)
        taken += events
    return taken


@given(st.lists(st.integers(1, 9_000), max_size=400), st.integers(1, 200_000), st.integers(0, 3))
def test_everything_comes_once_in_order_and_the_target_is_reached(sizes: list[int], chunk: int, gone: int) -> None:
    stored = Stored(sizes)
    upto = Position(epoch=len(sizes) + gone)  # the rows that were the newest may be gone
    assert asyncio.run(replayed(Replays(), stored, upto, chunk)) == stored.events


def test_a_long_replay_is_read_in_few_pages_of_bounded_size() -> None:
    stored = Stored([250] * 20_000)
    assert asyncio.run(replayed(Replays(), stored, Position(epoch=20_000))) == stored.events
    assert len(stored.pages) <= 25
    assert max(stored.pages) <= 600_000


def test_of_long_events_fewer_are_read_at_once() -> None:
    stored = Stored([4_000] * 1_000)
    assert asyncio.run(replayed(Replays(), stored, Position(epoch=1_000))) == stored.events
    assert max(stored.pages) <= 600_000


def test_readers_who_come_together_read_each_page_once() -> None:
    alone, shared = Stored([250] * 5_000), Stored([250] * 5_000)
    upto = Position(epoch=5_000)

    async def together() -> list[list[Event]]:
        replays = Replays()
        return await asyncio.gather(*(replayed(replays, shared, upto) for _ in range(10)))

    asyncio.run(replayed(Replays(), alone, upto))
    assert all(events == shared.events for events in asyncio.run(together()))
    assert shared.pages == alone.pages
