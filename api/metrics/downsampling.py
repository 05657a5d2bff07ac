"""Thinning of curves: fewer epochs, and no peak lost."""

import math
from collections.abc import Sequence


def most_points(curves: int, max_points: int) -> int:
    """Return how many epochs are kept at most: `max_points`, or what one bucket may need where that is more."""
    return max(max_points, _per_bucket(curves))


def kept(curves: Sequence[Sequence[float | None]], epochs: int, max_points: int) -> list[int]:
    """Return the indices, in order, of the epochs that stand for all of them.

    The epochs are cut into buckets of equal size (to one epoch), as many as there is room for; of each bucket the
    first and the last epoch are kept, and for every curve those of its least and its greatest finite value, the
    earliest of equals. Each of `curves` has one value per epoch. No more than `most_points` are kept; all are where
    there are no more than that.
    """
    if epochs <= most_points(len(curves), max_points):
        return list(range(epochs))
    buckets = max(1, max_points // _per_bucket(len(curves)))
    chosen: set[int] = set()
    for bucket in range(buckets):
        places = range(bucket * epochs // buckets, (bucket + 1) * epochs // buckets)
        chosen.update((places[0], places[-1]))
        for curve in curves:
            chosen.update(_extremes(curve, places))
    return sorted(chosen)


def _per_bucket(curves: int) -> int:
    return 2 + 2 * curves


def _extremes(curve: Sequence[float | None], places: range) -> tuple[int, ...]:
    finite = [(value, place) for place in places if (value := curve[place]) is not None and math.isfinite(value)]
    if not finite:
        return ()
    return min(finite)[1], max(finite, key=lambda point: (point[0], -point[1]))[1]
