"""What a person may ask of a sweep: the points of each kind, and what is refused before any point is looked at."""

import math
from collections import Counter
from typing import Any

import pytest
from pydantic import ValidationError

from models.sweep_spec import Choices, Grid, Random, Range, SweepSpec, parameter_paths

LEARNING_RATE = "training.optimizer.learning_rate"
BASE: dict[str, Any] = {"dataset": {"name": "digits"}, "network": {"name": "mlp"}}
GRID: dict[str, Any] = {"kind": "grid", "values": {LEARNING_RATE: [0.1, 0.01], "training.batch_size": [16, 32, 64]}}


def sweep(**changes: Any) -> SweepSpec:
    return SweepSpec.model_validate({"spec": BASE, "parameters": GRID, "objective": "validation_accuracy"} | changes)


def drawn(n: int, seed: int, **ranges: dict[str, Any]) -> list[dict[str, Any]]:
    return list(Random.model_validate({"n": n, "seed": seed, "ranges": ranges}).every_point())


def test_a_grid_has_every_combination_and_the_last_parameter_varies_fastest() -> None:
    grid = sweep().parameters
    assert isinstance(grid, Grid)
    assert grid.size == 6
    assert [(point[LEARNING_RATE], point["training.batch_size"]) for point in grid.every_point()] == [
        (0.1, 16), (0.1, 32), (0.1, 64), (0.01, 16), (0.01, 32), (0.01, 64),
    ]  # fmt: skip


def test_the_same_seed_draws_the_same_points_and_more_of_them_begin_with_these() -> None:
    ranges: dict[str, Any] = {"a": {"low": 1e-4, "high": 1.0, "log": True}, "b": {"choices": ["x", "y", "z"]}}
    assert drawn(5, 7, **ranges) == drawn(5, 7, **ranges) == drawn(50, 7, **ranges)[:5]
    assert drawn(5, 7, **ranges) != drawn(5, 8, **ranges)


def test_a_log_range_draws_each_decade_as_often() -> None:
    points = drawn(1_000, 1, a={"low": 1e-4, "high": 1.0, "log": True})
    decades = Counter(math.floor(math.log10(point["a"])) for point in points)
    assert set(decades) == {-4, -3, -2, -1}
    assert all(200 < count < 300 for count in decades.values())


@pytest.mark.parametrize(
    ("domain", "values"),
    [
        ({"low": 1, "high": 4, "integer": True}, [1, 2, 3, 4]),
        ({"low": 16, "high": 64, "integer": True, "step": 16}, [16, 32, 48, 64]),
        ({"low": 0.1, "high": 0.5, "step": 0.1}, [0.1, 0.2, 0.3, 0.4, 0.5]),
        ({"low": 0, "high": 1, "step": 0.4}, [0.0, 0.4, 0.8]),
        ({"low": 1, "high": 3, "integer": True, "log": True}, [1, 2, 3]),
        ({"choices": [1, True, "a", [2]]}, [1, True, "a", [2]]),
    ],
)
def test_a_range_draws_all_of_its_values_and_no_other(domain: dict[str, Any], values: list[Any]) -> None:
    seen = [point["a"] for point in drawn(1_000, 3, a=domain)]
    kinds = {(type(value), str(value)) for value in values}
    assert {(type(value), str(value)) for value in seen} == kinds, "whole numbers are integers where that is asked for"


def test_the_ends_of_a_range_are_values_that_it_can_draw() -> None:
    assert Range(low=0, high=1, step=0.4).ends() == {"low": 0.0, "high": 0.8}
    assert Range(low=8, high=64, integer=True, log=True).ends() == {"low": 8, "high": 64}
    assert Choices(choices=["a", None]).ends() == {"choices.0": "a", "choices.1": None}


@pytest.mark.parametrize("number", range(9))
def test_a_stepped_value_knows_its_step(number: int) -> None:
    domain = Range(low=0.1, high=0.9, step=0.1)
    assert domain.steps == 8
    assert domain.step_of_value(domain.value_of_step(number)) == number


@pytest.mark.parametrize(
    ("objective", "direction", "maximizes"),
    [
        ("validation_accuracy", None, True),
        ("train_accuracy", None, True),
        ("validation_loss", None, False),
        ("test_loss", None, False),
        ("validation_accuracy", "minimize", False),
        ("train_loss", "maximize", True),
    ],
)
def test_accuracies_are_maximized_and_losses_minimized_unless_the_direction_is_given(
    objective: str, direction: str | None, maximizes: bool
) -> None:
    assert sweep(objective=objective, direction=direction).maximizes is maximizes


def test_the_parameters_are_in_the_order_in_which_they_were_sent() -> None:
    points = [{"training.epochs": 1}, {"training.batch_size": 8, "training.epochs": 2}]
    listed = sweep(parameters={"kind": "list", "points": points}).parameters
    assert parameter_paths(listed) == ["training.epochs", "training.batch_size"]
    ranges = {"z": {"low": 0, "high": 1}, "a": {"choices": [1]}}
    assert parameter_paths(sweep(parameters={"kind": "random", "n": 3, "ranges": ranges}).parameters) == ["z", "a"]


def test_a_stored_sweep_is_read_back_as_it_was() -> None:
    ranges = {"a": {"low": 1, "high": 4, "integer": True}, "b": {"choices": [1, True, None, {"x": [1.5]}]}}
    whole = sweep(
        parameters={"kind": "bayesian", "n": 3, "seed": 5, "ranges": ranges},
        early_stop={"kind": "asha", "min_epochs": 2, "reduction_factor": 3},
    )
    assert SweepSpec.model_validate(whole.as_json()) == whole


def grid(**values: Any) -> dict[str, Any]:
    return {"parameters": {"kind": "grid", "values": values}}


def random(**fields: Any) -> dict[str, Any]:
    return {"parameters": {"kind": "random", "n": 3} | fields}


def between(**fields: Any) -> dict[str, Any]:
    return random(ranges={"a": fields})


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"parameters": {"kind": "guess"}}, "union_tag_invalid"),
        (grid(), "too_short"),
        (grid(a=[]), "too_short"),
        (grid(a=[1] * 1_001), "too_long"),
        (grid(a=[1] * 32, b=[1] * 32), "too_long"),
        (grid(**{f"p{number}": [1] for number in range(33)}), "too_long"),
        (grid(**{"a..b": [1]}), "string_pattern_mismatch"),
        (grid(**{".a": [1]}), "string_pattern_mismatch"),
        (grid(**{"a b": [1]}), "string_pattern_mismatch"),
        (grid(**{"a\n": [1]}), "string_pattern_mismatch"),
        (grid(**{"": [1]}), "string_pattern_mismatch"),
        (grid(**{"x" * 201: [1]}), "string_too_long"),
        (grid(**{"training": [{}], "training.epochs": [1]}), "overlap"),
        ({"parameters": {"kind": "list", "points": []}}, "too_short"),
        ({"parameters": {"kind": "list", "points": [{}]}}, "too_short"),
        ({"parameters": {"kind": "list", "points": [{"a": 1}] * 1_001}}, "too_long"),
        ({"parameters": {"kind": "list", "points": [{"a": 1, "a.b": 2}]}}, "overlap"),
        (random(n=0, ranges={"a": {"choices": [1]}}), "greater_than_equal"),
        (random(n=1_001, ranges={"a": {"choices": [1]}}), "less_than_equal"),
        (random(n=True, ranges={"a": {"choices": [1]}}), "int_type"),
        (random(seed=-1, ranges={"a": {"choices": [1]}}), "greater_than_equal"),
        (random(seed=2**32, ranges={"a": {"choices": [1]}}), "less_than_equal"),
        (random(ranges={}), "too_short"),
        (random(ranges={"a": {"choices": []}}), "too_short"),
        (random(ranges={"a": {"choices": [1] * 101}}), "too_long"),
        (random(ranges={"a": {"choices": [1], "low": 1}}), "extra_forbidden"),
        (random(ranges={"a": [1, 2]}), "model_type"),
        (between(low=1), "missing"),
        (between(low=1, high=1), "range"),
        (between(low=2, high=1), "range"),
        (between(low=0, high=1, log=True), "range"),
        (between(low=1, high=9, log=True, step=1), "range"),
        (between(low=0, high=1, step=1.5), "range"),
        (between(low=0, high=1, step=0), "greater_than"),
        (between(low=0.5, high=3, integer=True), "range"),
        (between(low=0, high=3, integer=True, step=1.5), "range"),
        (between(low=0, high=1e13), "less_than_equal"),
        (between(low=0, high=math.inf), "finite_number"),
        (between(low="0", high=1), "float_type"),
        ({"objective": "accuracy"}, "literal_error"),
        ({"direction": "up"}, "literal_error"),
        ({"max_concurrent": 0}, "greater_than_equal"),
        ({"max_concurrent": 101}, "less_than_equal"),
        ({"early_stop": {"kind": "mean"}}, "union_tag_invalid"),
        ({"early_stop": {"kind": "median", "min_epochs": 0}}, "greater_than_equal"),
        ({"early_stop": {"kind": "asha", "reduction_factor": 1}}, "greater_than_equal"),
        ({"early_stop": {"kind": "median", "reduction_factor": 4}}, "extra_forbidden"),
        ({"early_stop": {"kind": "median"}, "objective": "test_loss"}, "conflict"),
        ({"spec": "digits"}, "dict_type"),
        ({"name": "a\nb"}, "unprintable_text"),
        ({"points": 3}, "extra_forbidden"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_sweep_is_refused(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(ValidationError) as refused:
        sweep(**changes)
    assert code in {entry["type"] for entry in refused.value.errors()}


@pytest.mark.parametrize(
    "changes",
    [
        grid(a=[1] * 1_000),
        grid(a=[1] * 31, b=[1] * 32),
        grid(training=[{}], training_epochs=[1]),
        grid(**{"network.layers.0.out_channels": [1], "metadata.my-key": ["x"]}),
        random(n=1_000, seed=2**32 - 1, ranges={"a": {"choices": [1] * 100}}),
        between(low=0, high=1, step=1),
        between(low=1e-12, high=1, log=True),
        between(low=-3, high=3, integer=True),
        {"max_concurrent": 100},
        {"early_stop": {"kind": "median"}, "objective": "train_loss"},
    ],
)
def test_what_is_just_within_the_bounds_is_a_sweep(changes: dict[str, Any]) -> None:
    assert sweep(**changes).parameters.size >= 1
