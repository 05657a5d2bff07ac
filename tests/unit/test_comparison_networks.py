"""Networks aligned layer by layer."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.comparisons.comparison import compare
from api.comparisons.networks import MAX_CELLS, Budget, Place, align
from api.comparisons.rows import Row
from api.comparisons.schemas import ComparedCurves, LayerDifference, NetworkDifference
from models.scores import METRICS
from models.spec import JobSpec

NO_CURVES = ComparedCurves.model_validate({"sampled": False} | {name: [] for name in ("epochs", *METRICS)})


def row(number: int, network: dict[str, Any], essentials: dict[str, Any] | None = None, resize: int = 32) -> Row:
    sent = {"dataset": {"name": "digits", "resize": resize}, "network": network, "training": {"seed": 1}}
    spec = JobSpec.model_validate(sent).resolved().as_json()
    return Row(UUID(int=number), None, "running", "ann", spec, essentials, None, None, None)


def against(first: Row, other: Row) -> NetworkDifference:
    (difference,) = compare([first, other], NO_CURVES).network_differences
    return difference


def told(layers: Sequence[LayerDifference]) -> list[tuple[str, str]]:
    """Status and kind of each place."""
    shown = [(each.status, each.first or each.other) for each in layers]
    return [(status, place.layer["kind"]) for status, place in shown if place is not None]


def test_equal_networks_are_identical_and_every_place_the_same() -> None:
    difference = against(row(1, {"name": "lenet"}), row(2, {"name": "lenet"}))
    assert difference.identical is True
    assert {each.status for each in difference.layers} == {"same"}
    assert len(difference.layers) == 12


def test_an_added_layer_is_named_and_those_behind_it_stay_aligned() -> None:
    difference = against(row(1, {"name": "lenet"}), row(2, {"name": "lenet", "dropout": 0.5}))
    assert difference.identical is False
    (added,) = [each for each in difference.layers if each.status != "same"]
    assert (added.status, added.first) == ("added", None)
    assert added.other is not None
    assert (added.other.layer["kind"], added.other.layer["probability"]) == ("dropout", 0.5)
    back = against(row(1, {"name": "lenet", "dropout": 0.5}), row(2, {"name": "lenet"}))
    assert [status for status, _ in told(back.layers) if status != "same"] == ["removed"]


def test_a_layer_of_other_width_is_changed_and_so_is_the_count_of_the_next() -> None:
    difference = against(row(1, {"name": "mlp", "hidden": [8]}), row(2, {"name": "mlp", "hidden": [16]}))
    first, relu, last = difference.layers[1:]
    assert (first.status, first.differs) == ("changed", ["out_features", "output_shape", "parameters", "macs"])
    assert first.first is not None
    assert first.other is not None
    assert (first.first.parameters, first.other.parameters) == (8 * 1025, 16 * 1025)
    assert relu.differs == ["output_shape"]
    assert last.differs == ["parameters", "macs"], "the same layer on a wider input"


def test_an_activation_stands_in_for_another() -> None:
    difference = against(row(1, {"name": "cnn"}), row(2, {"name": "cnn", "activation": "tanh"}))
    changed = [each for each in difference.layers if each.status == "changed"]
    assert [(each.first.layer["kind"], each.other.layer["kind"]) for each in changed if each.first and each.other] == [
        ("relu", "tanh")
    ] * 3
    assert all(each.differs == ["kind"] for each in changed)


def test_a_residual_that_differs_is_compared_inside() -> None:
    def network(size: int, repeat: int = 1) -> dict[str, Any]:
        inside = [{"kind": "conv2d", "out_channels": 4, "kernel_size": size, "padding": size // 2}, {"kind": "relu"}]
        return {
            "name": "sequential",
            "layers": [
                {"kind": "residual", "layers": inside, "repeat": repeat},
                {"kind": "flatten"},
                {"kind": "linear", "out_features": 10},
            ],
        }

    residual, *rest = against(row(1, network(3)), row(2, network(5))).layers
    assert residual.status == "changed"
    assert residual.differs == ["parameters", "macs"]
    assert told(residual.layers) == [("changed", "conv2d"), ("same", "relu"), ("same", "projection")]
    assert residual.layers[0].differs == ["kernel_size", "padding", "parameters", "macs"]
    assert residual.layers[0].first is not None
    assert residual.layers[0].first.loc == "0.layers.0"
    assert {each.status for each in rest} == {"same"}


def test_a_torchvision_network_is_compared_when_a_worker_has_counted_it() -> None:
    squeezenet = {"name": "torchvision", "architecture": "squeezenet1_1"}
    unknown = against(row(1, {"name": "lenet"}), row(2, squeezenet))
    assert (unknown.identical, unknown.layers) == (None, [])
    assert unknown.note is not None
    counts = [{"layer": 0, "kind": "conv2d", "output_shape": [64, 15, 15], "parameters": 640, "macs": 129_600}]
    place = Place.counted(counts)[0]
    assert (place.loc, place.layer, place.output_shape, place.parameters) == (
        "0",
        {"kind": "conv2d"},
        (64, 15, 15),
        640,
    )


def place(kind: str, size: int = 0) -> Place:
    return Place("0", {"kind": kind, "size": size}, (1,), 0, 0)


def test_what_stands_in_for_nothing_is_removed_and_added() -> None:
    linear, pool, relu = place("linear"), place("max_pool2d"), place("relu")
    assert align([relu, linear], [relu, pool], Budget()) == [(relu, relu), (linear, None), (None, pool)]
    assert align([], [pool], Budget()) == [(None, pool)]
    assert align([pool], [], Budget()) == [(pool, None)]


def test_equal_layers_are_paired_rather_than_similar_ones() -> None:
    small, large = place("linear", 1), place("linear", 2)
    assert align([small, large], [large], Budget()) == [(small, None), (large, large)]


PLACES = st.lists(
    st.builds(place, st.sampled_from(["linear", "relu", "tanh", "conv2d"]), st.integers(0, 2)), max_size=12
)


@given(first=PLACES, other=PLACES, budget=st.builds(Budget, st.sampled_from([0, 10, MAX_CELLS])))
def test_an_alignment_holds_every_layer_once_and_in_order(
    first: list[Place], other: list[Place], budget: Budget
) -> None:
    pairs = align(first, other, budget)
    assert [mine for mine, _ in pairs if mine is not None] == first
    assert [theirs for _, theirs in pairs if theirs is not None] == other
    assert all(mine is not None or theirs is not None for mine, theirs in pairs)


def test_beyond_the_budget_layers_between_equal_ones_are_paired_by_position() -> None:
    relu, pool, linear, new = place("relu"), place("max_pool2d"), place("linear"), place("batch_norm2d")
    budget = Budget(cells=5)
    first, other = [relu, pool, linear, relu], [relu, new, pool, linear, new, relu]
    assert align(first, other, budget) == [
        (relu, relu),
        (pool, new),
        (linear, pool),
        (None, linear),
        (None, new),
        (relu, relu),
    ]
    assert (budget.cells, budget.refusals) == (5, 1)
    assert align([relu, pool], [relu, new], budget) == [(relu, relu), (pool, None), (None, new)]
    assert (budget.cells, budget.refusals) == (4, 1)


def test_an_answer_aligns_large_networks_up_to_its_budget_and_notes_those_beyond() -> None:
    def network(width: int) -> dict[str, Any]:
        hidden = [{"kind": "linear", "out_features": width + place % 2} for place in range(400)]
        return {"name": "sequential", "layers": [{"kind": "flatten"}, *hidden, {"kind": "linear", "out_features": 10}]}

    room = MAX_CELLS // 400**2
    widths = [*range(1, 2 * room + 3, 2), 3]
    jobs = [row(number, network(width), resize=8) for number, width in enumerate(widths)]
    differences = compare(jobs, NO_CURVES).network_differences
    assert [each.note is None for each in differences] == [True] * room + [True]
    assert differences[-1].layers == differences[0].layers, "the same network is not aligned again"
    (beyond,) = compare([*jobs, row(99, network(2 * room + 3), resize=8)], NO_CURVES).network_differences[-1:]
    assert beyond.note is not None
    assert "paired by their position" in beyond.note
    assert {status for status, _ in told(beyond.layers)} == {"same", "changed"}


@given(places=PLACES, at=st.integers(0, 12))
def test_one_more_layer_is_one_more_place(places: list[Place], at: int) -> None:
    new = place("batch_norm2d")
    longer = [*places[:at], new, *places[at:]]
    pairs = align(places, longer, Budget())
    assert [theirs for mine, theirs in pairs if mine is None] == [new]
    assert all(mine == theirs for mine, theirs in pairs if mine is not None)


@pytest.mark.parametrize("hidden", [[], [3]])
def test_the_size_of_a_network_is_known_before_its_job_has_run(hidden: list[int]) -> None:
    jobs = compare([row(1, {"name": "mlp", "hidden": hidden}, resize=8), row(2, {"name": "lenet"})], NO_CURVES).jobs
    expected = {0: 64 * 10 + 10, 1: 64 * 3 + 3 + 3 * 10 + 10}[len(hidden)]
    assert jobs[0].parameters == expected
    assert jobs[0].note == "The job is running and has no result: its scores are null."
    assert (jobs[0].scores, jobs[0].times, jobs[0].device) == (None, None, None)
