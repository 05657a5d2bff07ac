"""What the points of a sweep say together: their order, the best of them, and the objective along each parameter."""

import random
from typing import Any

import pytest
from scipy import stats  # type: ignore[import-untyped]

from api.sweeps.schemas import PointView
from api.sweeps.summary import rank_correlation, ranked, summarised
from models.sweep_spec import SweepSpec


def point(number: int, value: float | None, status: str = "succeeded", **parameters: Any) -> PointView:
    return PointView(
        rank=None,
        point=number,
        parameters=parameters,
        job_id=None,
        status=status,
        reason=None,
        message=None,
        value=value,
        epoch=None if value is None else 1,
    )


POINTS = [
    point(0, 0.3),
    point(1, None, "refused"),
    point(2, None, "queued"),
    point(3, 0.9, "failed"),
    point(4, 0.5, "cancelled"),
    point(5, 0.8, "running"),
    point(6, None, "running"),
    point(7, 0.3),
    point(8, None, "cancelled"),
]


def test_the_best_come_first_then_those_on_their_way_then_those_that_came_to_nothing() -> None:
    order = ranked(POINTS, maximizes=True)
    assert [entry.point for entry in order] == [5, 4, 0, 7, 2, 6, 1, 3, 8]
    assert [entry.rank for entry in order] == [1, 2, 3, 4, None, None, None, None, None]


def test_a_loss_is_better_where_it_is_smaller() -> None:
    assert [entry.point for entry in ranked(POINTS, maximizes=False)] == [0, 7, 4, 5, 2, 6, 1, 3, 8]


def plan(**changes: Any) -> SweepSpec:
    grid = {"kind": "grid", "values": {"a": [1, 2], "b": ["x", "y"]}}
    return SweepSpec.model_validate({"spec": {}, "parameters": grid, "objective": "validation_accuracy"} | changes)


def test_each_value_has_the_mean_and_the_best_of_its_points() -> None:
    points = [point(0, 0.25, a=1, b="x"), point(1, 0.75, a=1, b="y"), point(2, 0.5, a=2, b="x")]
    points += [point(3, 9.9, "failed", a=2, b="y"), point(4, None, "running", a=2, b="y")]
    along_a, along_b = summarised(plan(), ranked(points, maximizes=True))
    assert (along_a.parameter, along_a.n) == ("a", 3)
    assert [entry.model_dump() for entry in along_a.values] == [
        {"value": 1, "n": 2, "mean": 0.5, "best": 0.75},
        {"value": 2, "n": 1, "mean": 0.5, "best": 0.5},
    ]
    assert [(entry.value, entry.n, entry.mean) for entry in along_b.values] == [("x", 2, 0.375), ("y", 1, 0.75)]
    assert along_a.rank_correlation == pytest.approx(0.0)
    assert along_b.rank_correlation is None, "texts have no order"
    losses, _ = summarised(plan(objective="validation_loss"), points)
    assert [entry.best for entry in losses.values] == [0.25, 0.5]


def test_a_range_has_a_rank_correlation_and_no_values() -> None:
    ranges = {"r": {"low": 0, "high": 1}, "c": {"choices": [1, True, {"k": 1}]}}
    drawn = plan(parameters={"kind": "random", "n": 4, "seed": 1, "ranges": ranges})
    points = [point(number, number**2 / 9, r=number / 9, c=1 if number % 2 else True) for number in range(4)]
    along_r, along_c = summarised(drawn, points)
    assert (along_r.values, along_r.n) == ([], 4)
    assert along_r.rank_correlation == pytest.approx(1.0)
    assert [entry.value for entry in along_c.values] == [True, 1]
    assert along_c.rank_correlation is None


def test_a_parameter_that_only_some_points_of_a_list_have_counts_these() -> None:
    listed = plan(parameters={"kind": "list", "points": [{"a": 1}, {"b": 2}, {"a": 1, "b": 3}]})
    points = [point(0, 0.1, a=1), point(1, 0.2, b=2), point(2, 0.3, a=1, b=3)]
    assert [(along.parameter, along.n) for along in summarised(listed, points)] == [("a", 2), ("b", 2)]


@pytest.mark.parametrize("seed", range(8))
def test_the_rank_correlation_is_that_of_scipy_ties_included(seed: int) -> None:
    draw = random.Random(seed)
    first = [draw.choice([0.1, 0.2, 0.5, 1.0]) for _ in range(25)]
    second = [draw.random() if seed % 2 else draw.randint(0, 5) for _ in range(25)]
    assert rank_correlation(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)


@pytest.mark.parametrize(
    ("first", "second"), [([], []), ([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [0.5, 0.5, 0.5])]
)
def test_there_is_no_rank_correlation_of_too_little(first: list[float], second: list[float]) -> None:
    assert rank_correlation(first, second) is None
