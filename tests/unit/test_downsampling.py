"""Thinned curves: bounded, in order, and with every peak of the whole."""

import math

from hypothesis import given
from hypothesis import strategies as st

from api.metrics.downsampling import kept, most_points

VALUES = st.one_of(st.none(), st.floats(), st.integers(-3, 3).map(float))


@st.composite
def curves(draw: st.DrawFn) -> tuple[list[list[float | None]], int]:
    epochs = draw(st.integers(0, 60))
    lists = st.lists(VALUES, min_size=epochs, max_size=epochs)
    return draw(st.lists(lists, max_size=6)), epochs


@given(curves(), st.integers(2, 300))
def test_no_more_are_kept_than_asked_for_or_than_one_bucket_needs(
    drawn: tuple[list[list[float | None]], int], max_points: int
) -> None:
    lists, epochs = drawn
    assert (
        len(kept(lists, epochs, max_points))
        <= max(max_points, 2 + 2 * len(lists))
        == most_points(len(lists), max_points)
    )


@given(curves(), st.integers(2, 300))
def test_the_order_is_kept_and_so_are_both_ends(drawn: tuple[list[list[float | None]], int], max_points: int) -> None:
    lists, epochs = drawn
    places = kept(lists, epochs, max_points)
    assert places == sorted(set(places))
    if epochs:
        assert (places[0], places[-1]) == (0, epochs - 1)


@given(curves(), st.integers(2, 300))
def test_the_extremes_of_every_curve_are_kept(drawn: tuple[list[list[float | None]], int], max_points: int) -> None:
    lists, epochs = drawn
    places = kept(lists, epochs, max_points)
    for curve in lists:
        finite = [value for value in curve if value is not None and math.isfinite(value)]
        shown = [value for place in places if (value := curve[place]) is not None and math.isfinite(value)]
        assert (min(shown, default=None), max(shown, default=None)) == (
            min(finite, default=None),
            max(finite, default=None),
        )


@given(curves(), st.integers(2, 300))
def test_a_short_curve_is_kept_whole(drawn: tuple[list[list[float | None]], int], max_points: int) -> None:
    lists, epochs = drawn
    if epochs <= max_points:
        assert kept(lists, epochs, max_points) == list(range(epochs))


def test_a_single_peak_within_each_part_is_kept_at_its_place() -> None:
    curve: list[float | None] = [0.0] * 1_000
    curve[123], curve[777] = 5.0, -5.0
    places = kept([curve], 1_000, 8)
    assert places == [0, 123, 499, 500, 777, 999], (
        "two buckets: first, least, greatest and last, the earliest of equals"
    )
