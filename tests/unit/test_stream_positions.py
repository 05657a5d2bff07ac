"""The ids of events: written, read again, compared, and refused where they are none."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.streams.position import Position

INT = st.integers(0, 2**31 - 1)
BIGINT = st.integers(0, 2**63 - 1)
POSITIONS = st.builds(Position, transition=BIGINT, attempt=INT, epoch=INT, log=BIGINT, closing=INT)


@given(POSITIONS)
def test_a_position_reads_as_it_is_written(position: Position) -> None:
    assert Position.parse(str(position)) == position


@given(POSITIONS, POSITIONS)
def test_of_two_positions_that_cover_each_other_both_are_the_same(one: Position, other: Position) -> None:
    assert one.covers(one)
    assert (one.covers(other) and other.covers(one)) == (one == other)
    assert one.covers(Position())


def test_each_source_moves_a_position_on_and_a_later_attempt_more_than_any_epoch() -> None:
    places = [
        Position(),
        Position(transition=4),
        Position(4, attempt=1, epoch=1),
        Position(4, 1, epoch=2),
        Position(4, 1, 2, log=9),
        Position(7, 1, 2, 9),
        Position(7, attempt=2, epoch=1, log=9),
        Position(7, 2, 1, 9, closing=1),
    ]
    for before, after in pairwise(places):
        assert after.covers(before)
        assert not before.covers(after)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "-",
            "1",
            "1-2-3-4",
            "1-2-3-4-5-6",
            "1-2-3-4-",
            "+1-2-3-4-5",
            "1-2-3-4-\u0665",
            " 1-2-3-4-5",
            "1-2-3-4-5\n",
        ),
        *("9223372036854775808-0-0-0-0", "0-2147483648-0-0-0", "0-0-2147483648-0-0", "0-0-0-0-9999999999"),
    ],
)
def test_a_text_that_is_no_position_is_none(text: str) -> None:
    assert Position.parse(text) is None
