"""The harness counts the time in which a worker could have claimed, and no other."""

from datetime import UTC, datetime, timedelta

import pytest

from harness.waiting import Span, without_stalls

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


def span(since: float, until: float) -> Span:
    """Return it by its ends, in seconds."""
    return BEGINNING + timedelta(seconds=since), BEGINNING + timedelta(seconds=until)


@pytest.mark.parametrize(
    ("stalls", "left"),
    [
        ([], [(0, 30)]),
        ([(40, 50), (-9, 0)], [(0, 30)]),
        ([(10, 12)], [(0, 10), (12, 30)]),
        ([(20, 25), (10, 12)], [(0, 10), (12, 20), (25, 30)]),
        ([(5, 20), (8, 10)], [(0, 5), (20, 30)]),
        ([(-5, 10), (8, 40)], []),
    ],
)
def test_the_stalls_of_a_worker_are_no_time_beside_a_free_slot(
    stalls: list[tuple[float, float]], left: list[tuple[float, float]]
) -> None:
    found = without_stalls([span(*stall) for stall in stalls], [span(0, 30)])
    assert [one for one in found if one[0] < one[1]] == [span(*one) for one in left]
