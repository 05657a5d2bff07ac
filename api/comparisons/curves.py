"""Which epochs stand for long trainings when several are shown over the same ones."""

from collections.abc import Collection


def shown_epochs(lasts: Collection[int], kept: Collection[int], max_points: int) -> list[int]:
    """Return the epochs that are shown of jobs that end at `lasts`: all of them, or at most `max_points` (2 or more).

    Those are the first and the last one of the longest job, and of the rest of the room: the `kept` ones, where they
    take no more than half of it; evenly spaced ones of each shorter length, which share the other half; and evenly
    spaced ones of the longest. The extremes of every curve would be others for each job and metric, and leave no room.
    """
    longest = max(lasts)
    if longest < max_points:
        return list(range(longest + 1))
    ends, room = {0, longest}, max_points - 2
    always = set(kept) - ends
    if 2 * len(always) > room:
        always = set()
    shorter = set(lasts) - ends
    for last in shorter:
        always |= _spaced(last, room // (2 * (len(shorter) + 1))) - ends
    return sorted(always | _spaced(longest, max_points - len(always)))


def _spaced(last: int, count: int) -> set[int]:
    """Return `count` evenly spaced epochs from 0 to `last`, or all where there are fewer; a single one is the last."""
    if count < 2:
        return {last} if count else set()
    return {round(place * last / (count - 1)) for place in range(count)}
