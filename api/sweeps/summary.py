"""What the points of a sweep say together: their order, and the objective along each parameter."""

import json
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from statistics import correlation, fmean
from typing import Any

from api.sweeps.schemas import ParameterSummary, PointView, ValueSummary
from models.job import Status
from models.sweep_spec import Bayesian, Random, Range, SweepSpec, parameter_paths

_FEWEST_POINTS = 3  # two points always correlate
_UNRANKED_LAST = (Status.FAILED, Status.CANCELLED, "refused")


def ranked(points: Sequence[PointView], *, maximizes: bool) -> list[PointView]:
    """Return the points in order: those with a value, the best first; those on their way; those that came to nothing.

    Equals, and points without a value, keep their order.
    """

    def order(point: PointView) -> tuple[int, float]:
        if _counts(point) and point.value is not None:
            return 0, -point.value if maximizes else point.value
        return (2 if point.status in _UNRANKED_LAST else 1), 0.0

    return [
        point.model_copy(update={"rank": place if order(point)[0] == 0 else None})
        for place, point in enumerate(sorted(points, key=order), start=1)
    ]


def summarised(plan: SweepSpec, points: Sequence[PointView]) -> list[ParameterSummary]:
    """Return the summary of each parameter over the points that have a value and did not fail."""
    counted = sorted(filter(_counts, points), key=lambda point: point.point)
    return [_along(plan, path, counted) for path in parameter_paths(plan.parameters)]


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation, with mean ranks for ties; None for under three pairs or a constant side.

    It is Pearson's correlation of the ranks, which is right also where there are ties.
    """
    if len(first) < _FEWEST_POINTS or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    return correlation(_ranks(first), _ranks(second))


def _counts(point: PointView) -> bool:
    return point.value is not None and point.status != Status.FAILED


def _along(plan: SweepSpec, path: str, counted: Sequence[PointView]) -> ParameterSummary:
    pairs = [(point.parameters[path], point.value) for point in counted if path in point.parameters]
    found = [(parameter, value) for parameter, value in pairs if value is not None]
    numbers = all(type(parameter) in (int, float) for parameter, _ in found)
    return ParameterSummary(
        parameter=path,
        n=len(found),
        values=[] if _is_range(plan, path) else _by_value(found, maximizes=plan.maximizes),
        rank_correlation=rank_correlation([x for x, _ in found], [y for _, y in found]) if numbers else None,
    )


def _is_range(plan: SweepSpec, path: str) -> bool:
    parameters = plan.parameters
    return isinstance(parameters, Random | Bayesian) and isinstance(parameters.ranges[path], Range)


def _by_value(found: Sequence[tuple[Any, float]], *, maximizes: bool) -> list[ValueSummary]:
    """Return the summary of each value of a parameter, in the order in which they first stand."""
    reached: dict[str, tuple[Any, list[float]]] = {}
    for parameter, value in found:
        # As JSON: lists and objects too are values, and true is not 1.
        reached.setdefault(json.dumps(parameter, sort_keys=True), (parameter, []))[1].append(value)
    best = max if maximizes else min
    return [
        ValueSummary(value=parameter, n=len(values), mean=fmean(values), best=best(values))
        for parameter, values in reached.values()
    ]


def _ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value, counted from 1; equals share the mean of their ranks."""
    in_order = sorted(values)
    return [(bisect_left(in_order, value) + bisect_right(in_order, value) + 1) / 2 for value in values]
