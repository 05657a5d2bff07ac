"""What is kept in memory: bounded, and the least used goes first."""

from hypothesis import given
from hypothesis import strategies as st

from api.kept import Kept


def test_what_was_not_asked_for_longest_is_dropped_first() -> None:
    kept: Kept[str, int] = Kept(80)
    for number in range(8):
        kept.put(str(number), number, 10)
    assert kept.get("0") == 0
    kept.put("new", 8, 10)
    assert [kept.get(key) for key in ("0", "1", "2", "new")] == [0, None, 2, 8]


def test_a_value_that_takes_too_much_room_is_not_kept_and_neither_is_the_one_before_it() -> None:
    kept: Kept[str, int] = Kept(80)
    kept.put("a", 1, 10)
    kept.put("a", 2, 11)
    assert kept.get("a") is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30))))
def test_the_bound_holds_and_the_newest_is_there(puts: list[tuple[int, int]]) -> None:
    kept: Kept[int, int] = Kept(100)
    costs: dict[int, int] = {}
    for place, (key, cost) in enumerate(puts):
        kept.put(key, place, cost)
        costs[key] = cost
        assert kept.get(key) == (place if cost <= 12 else None)
    assert sum(cost for key, cost in costs.items() if kept.get(key) is not None) <= 100
