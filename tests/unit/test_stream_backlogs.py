"""The events that are kept for all readers of a stream: bounded, and exact as far as they reach back."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from api.streams.backlog import Backlog, first_bytes

ENOUGH = 10**9


@dataclass(frozen=True)
class Item:
    wire: bytes


def backlog(sizes: list[int], *, most: int = 1_000, most_bytes: int = ENOUGH) -> tuple[Backlog[int, Item], list[Item]]:
    """Return a backlog whose places are numbers from 0, and everything that was put in."""
    kept: Backlog[int, Item] = Backlog(0, most=most, most_bytes=most_bytes)
    items = [Item(bytes([number % 256]) * size) for number, size in enumerate(sizes)]
    for place, item in enumerate(items, start=1):
        kept.append(place, item)
    return kept, items


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 20), st.integers(1, 300))
def test_after_a_place_comes_all_that_followed_or_the_place_is_not_known(
    sizes: list[int], most: int, most_bytes: int
) -> None:
    kept, items = backlog(sizes, most=most, most_bytes=most_bytes)
    known = [place for place in range(len(items) + 1) if kept.after(place, ENOUGH) is not None]
    assert known == list(range(known[0], len(items) + 1)), "the newest, without holes"
    for place in known:
        assert kept.after(place, ENOUGH) == items[place:]
    assert len(items[known[0] :]) <= most
    assert sum(sizes[known[0] :]) <= most_bytes or len(items) - known[0] == 1


def test_a_reader_takes_as_many_bytes_as_it_may_and_one_event_at_least() -> None:
    kept, items = backlog([10, 10, 10, 100])
    assert kept.after(0, 25) == items[:2]
    assert kept.after(0, 30) == items[:3]
    assert kept.after(3, 25) == items[3:]
    assert kept.after(4, 25) == []
    assert first_bytes(items, 1) == items[:1]


def test_a_place_that_never_was_is_not_known() -> None:
    kept, _ = backlog([1, 1])
    assert kept.after(3, ENOUGH) is None
    assert kept.after(-1, ENOUGH) is None
