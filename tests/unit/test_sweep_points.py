"""From points to job specs: how fields are set, and how a bad value is named where it stands in the request."""

from typing import Any

import pytest

from models.errors import InvalidSpec
from models.point_specs import PointSpecs, named, spec_of
from models.recipes import get
from models.spec import JobSpec
from models.sweep_points import prepared
from models.sweep_spec import Bayesian, SweepSpec

LEARNING_RATE = "training.optimizer.learning_rate"
BASE: dict[str, Any] = {"dataset": {"name": "digits"}, "network": {"name": "mlp"}}
LAYERED: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "network": {
        "name": "sequential",
        "layers": [{"kind": "flatten"}, {"kind": "linear", "out_features": 8}, {"kind": "linear", "out_features": 10}],
    },
}


def sweep(parameters: dict[str, Any], **changes: Any) -> SweepSpec:
    return SweepSpec.model_validate(
        {"spec": BASE, "parameters": parameters, "objective": "validation_accuracy"} | changes
    )


def grid(values: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "grid", "values": values}


def listed(*points: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "list", "points": list(points)}


def ranges(domains: dict[str, Any], kind: str = "bayesian") -> dict[str, Any]:
    return {"kind": kind, "n": 3, "seed": 1, "ranges": domains}


def value_at(spec: JobSpec, path: str) -> Any:
    here: Any = spec.as_json()
    for part in path.split("."):
        here = here[int(part)] if isinstance(here, list) else here[part]
    return here


@pytest.mark.parametrize(
    ("sent", "path", "value"),
    [
        (BASE, LEARNING_RATE, 0.25),
        (BASE, "training", {"epochs": 3}),
        (BASE, "training.optimizer.name", "adam"),
        (BASE, "training.early_stopping.patience", 3),
        (BASE | {"training": {"early_stopping": None}}, "training.early_stopping.patience", 3),
        (BASE, "network.hidden", [4, 5]),
        (BASE | {"network": {"name": "mlp", "hidden": [4, 5]}}, "network.hidden.1", 7),
        (BASE, "dataset.validation", 0.25),
        (BASE, "tags", ["a"]),
        (LAYERED, "network.layers.1.out_features", 16),
        ({"recipe": "mlp-512"}, "training.epochs", 3),
        ({"recipe": "mlp-512-256-128"}, "network.hidden.1", 99),
        ({"recipe": "mlp-512"}, "training.optimizer.name", "adam"),
    ],
)
def test_a_point_sets_its_fields_in_what_was_sent(sent: dict[str, Any], path: str, value: Any) -> None:
    before = repr(sent)
    found = value_at(spec_of(sent, {path: value}), path)
    assert found == value if not isinstance(value, dict) else found.items() >= value.items()
    assert repr(sent) == before, "what was sent is left as it was"


def test_a_point_without_fields_is_what_was_sent() -> None:
    resolved = spec_of(BASE | {"training": {"seed": 3}}, {})
    assert resolved == JobSpec.model_validate(BASE | {"training": {"seed": 3}})


def test_a_recipe_can_vary_and_is_forgotten_where_its_network_changes() -> None:
    assert spec_of({"recipe": "lenet"}, {"recipe": "mlp-512"}).network == get("mlp-512").spec.network
    assert spec_of({"recipe": "lenet"}, {LEARNING_RATE: 0.5}).recipe == "lenet"
    assert spec_of({"recipe": "lenet"}, {"network.dropout": 0.25}).recipe is None


def test_a_job_bears_the_name_of_its_sweep_and_the_number_of_its_point() -> None:
    spec = spec_of(BASE | {"name": "mine"}, {})
    assert named(spec, "rates", 12).name == "rates #12"
    assert named(spec, None, 12).name == "mine"
    assert JobSpec.model_validate(named(spec, "x" * 200, 999).as_json()).name == "x" * 180 + " #999"


def test_what_was_left_open_is_chosen_once_and_recorded() -> None:
    whole = prepared(sweep(ranges({LEARNING_RATE: {"low": 0.1, "high": 0.5}}, "random") | {"seed": None}))
    assert isinstance(seed := whole.spec["training"]["seed"], int)  # type: ignore[index, call-overload]
    assert isinstance(whole.parameters.seed, int)  # type: ignore[union-attr]
    assert whole.direction == "maximize"
    assert {spec_of(whole.spec, point).training.seed for point in whole.parameters.every_point()} == {seed}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("sent", "seed"), [(BASE | {"training": {"seed": 5}}, 5), ({"recipe": "lenet", "training": {"seed": 6}}, 6)]
)
def test_seed_and_name_that_were_given_are_kept(sent: dict[str, Any], seed: int) -> None:
    whole = prepared(sweep(grid({LEARNING_RATE: [0.1]}), spec=sent | {"name": "of the job"}, name="mine"))
    assert (whole.name, spec_of(whole.spec, {}).training.seed) == ("mine", seed)
    assert prepared(sweep(grid({LEARNING_RATE: [0.1]}), spec=sent | {"name": "of the job"})).name == "of the job"
    varied = prepared(sweep(grid({"training.seed": [1, 2]}), spec=sent))
    assert [spec_of(varied.spec, point).training.seed for point in varied.parameters.every_point()] == [1, 2]  # type: ignore[union-attr]


# Parameters, what else differs from a good sweep, and the place and the code of each error.
BAD: list[tuple[dict[str, Any], dict[str, Any], list[tuple[str, str]]]] = [
    (
        grid({"training.batch_size": [16, 32, 0]}),
        {},
        [("parameters.values.training.batch_size.2", "greater_than_equal")],
    ),
    (
        grid({LEARNING_RATE: [0.1, "0.2"], "training.epochs": [1, -1, 2.5]}),
        {},
        [
            (f"parameters.values.{LEARNING_RATE}.1", "float_type"),
            ("parameters.values.training.epochs.1", "greater_than_equal"),
            ("parameters.values.training.epochs.2", "int_type"),
        ],
    ),
    (grid({"training.epoch": [1, 2, 3]}), {}, [("parameters.values.training.epoch", "extra_forbidden")]),
    (grid({"trainning.epochs": [1, 2]}), {}, [("parameters.values.trainning.epochs", "extra_forbidden")]),
    (grid({"values": [1, 2]}), {}, [("parameters.values.values", "extra_forbidden")]),
    (
        grid({"training.epochs.first": [1, 2]}),
        {"spec": BASE | {"training": {"epochs": 3}}},
        [
            ("parameters.values.training.epochs.first", "unknown_field"),
        ],
    ),
    (
        grid({"network.hidden.3": [1]}),
        {"spec": BASE | {"network": {"name": "mlp", "hidden": [4]}}},
        [
            ("parameters.values.network.hidden.3.0", "no_such_entry"),
        ],
    ),
    (
        grid({"network.layers.first.bias": [True]}),
        {"spec": LAYERED},
        [
            ("parameters.values.network.layers.first.bias.0", "no_such_entry"),
        ],
    ),
    (
        grid({"network.layers.0.bias": [True]}),
        {"spec": LAYERED},
        [
            ("parameters.values.network.layers.0.bias", "extra_forbidden"),
        ],
    ),
    (
        grid({"training.optimizer": [{"name": "sgd"}, {"name": "adam", "momentum": 0.9}]}),
        {},
        [
            ("parameters.values.training.optimizer.1.momentum", "extra_forbidden"),
        ],
    ),
    (
        grid({"recipe": ["lenet", "nolenet"]}),
        {"spec": {"recipe": "lenet"}},
        [("parameters.values.recipe.1", "unknown_recipe")],
    ),
    (
        grid({"network.layers.1.out_features": [8], "network.layers.2.out_features": [10, 11]}),
        {"spec": LAYERED},
        [
            ("parameters.values.network.layers.2.out_features.1", "layer_does_not_fit"),
        ],
    ),
    (
        grid({"training.schedule.warmup_epochs": [1, 5], "training.epochs": [3, 9]}),
        {"spec": BASE | {"training": {"schedule": {"name": "constant"}}}},
        [("parameters.values.training.schedule.warmup_epochs.1", "conflict")],
    ),
    (
        grid({"training.optimizer.nesterov": [True], "training.optimizer.momentum": [0.9, 0.0]}),
        {},
        [
            ("parameters.values.training.optimizer.nesterov.0", "conflict"),
        ],
    ),
    (grid({"network.hidden": [[65_536, 65_536]]}), {}, [("parameters.values.network.hidden.0", "network_too_large")]),
    (
        grid({"network.hidden": [[65_536, 65_536]], "network.dropout": [0.1]}),
        {},
        [("parameters.values", "network_too_large")],
    ),
    (
        listed({"training.epochs": 1}, {"training.epochs": 0, "training.batch_size": 0}),
        {},
        [
            ("parameters.points.1.training.epochs", "greater_than_equal"),
            ("parameters.points.1.training.batch_size", "greater_than_equal"),
        ],
    ),
    (
        ranges({LEARNING_RATE: {"low": -0.1, "high": 0.1}}),
        {},
        [(f"parameters.ranges.{LEARNING_RATE}.low", "greater_than")],
    ),
    (
        ranges({"network.dropout": {"low": 0.0, "high": 1.0}}),
        {},
        [("parameters.ranges.network.dropout.high", "less_than")],
    ),
    (
        ranges({"training.batch_size": {"low": 16, "high": 64}}),
        {},
        [
            ("parameters.ranges.training.batch_size.low", "int_type"),
            ("parameters.ranges.training.batch_size.high", "int_type"),
        ],
    ),
    (
        ranges({"training.optimizer.name": {"choices": ["sgd", "adam", "adagrad"]}}),
        {},
        [
            ("parameters.ranges.training.optimizer.name.choices.2", "literal_error"),
        ],
    ),
    (
        ranges({"network.dropout": {"low": -0.1, "high": 0.5}}, "random"),
        {},
        [
            ("parameters.ranges.network.dropout.low", "greater_than_equal"),
        ],
    ),
    (grid({LEARNING_RATE: [0.1]}), {"spec": {"dataset": {"name": "digits"}}}, [("spec.network", "missing")]),
    (grid({LEARNING_RATE: [0.1]}), {"spec": {"recipe": "nolenet"}}, [("spec.recipe", "unknown_recipe")]),
    (grid({LEARNING_RATE: [0.1]}), {"spec": BASE | {"training": None}}, [("spec.training", "object_type")]),
    (
        grid({LEARNING_RATE: [-0.1]}),
        {"spec": BASE | {"training": {"epochs": 0}}},
        [("spec.training.epochs", "greater_than_equal")],
    ),
    (grid({"dataset.validation": [0.2, 0]}), {}, [("objective", "conflict")]),
    (grid({LEARNING_RATE: [0.1]}), {"spec": {"recipe": "housing-8"}}, [("objective", "conflict")]),
]


@pytest.mark.parametrize(("parameters", "changes", "errors"), BAD)
def test_a_bad_point_is_named_where_it_stands_in_the_request(
    parameters: dict[str, Any], changes: dict[str, Any], errors: list[tuple[str, str]]
) -> None:
    with pytest.raises(InvalidSpec) as refused:
        prepared(sweep(parameters, **changes))
    found = {(error.loc, error.code) for error in refused.value.errors}
    assert set(errors) <= found, refused.value
    assert {loc for loc, _ in found} == {loc for loc, _ in errors}, "and nothing else is"


def test_an_error_that_several_parameters_may_cause_tells_the_point() -> None:
    hidden, dropout = "network.hidden", "network.dropout"
    with pytest.raises(InvalidSpec) as refused:
        prepared(sweep(grid({hidden: [[4], [65_536, 65_536]], dropout: [0.1]})))
    (error,) = refused.value.errors
    assert error.loc == "parameters.values"
    assert error.message.startswith("network: the network has ")
    assert error.message.endswith("(at network.hidden = [65536, 65536], network.dropout = 0.1)")


@pytest.mark.parametrize(
    ("parameters", "changes"),
    [
        (grid({"training.batch_size": [16, 32, 1]}), {}),
        (grid({"training.optimizer": [{"name": "sgd", "momentum": 0.9}, {"name": "adam"}]}), {}),
        (ranges({"network.dropout": {"low": 0.0, "high": 0.99}}), {}),
        (ranges({"training.batch_size": {"low": 16, "high": 64, "integer": True}}), {}),
        (grid({"dataset.validation": [0.2, 0]}), {"objective": "train_loss"}),
        (grid({"dataset.validation": [0.2, 0]}), {"objective": "test_accuracy"}),
        (grid({"dataset.validation": [0.1]}), {"spec": {"recipe": "housing-8"}, "objective": "test_loss"}),
        (grid({"network.layers.1.out_features": [8, 16]}), {"spec": LAYERED}),
    ],
)
def test_what_nearly_is_a_mistake_is_accepted(parameters: dict[str, Any], changes: dict[str, Any]) -> None:
    assert prepared(sweep(parameters, **changes)).parameters.size >= 1


def test_the_errors_of_a_grid_that_is_all_wrong_are_bounded() -> None:
    with pytest.raises(InvalidSpec) as refused:
        prepared(sweep(grid({"training.epochs": [0] * 1_000})))
    assert len(refused.value.errors) == 20


def test_every_corner_of_a_bayesian_sweep_is_tried_but_not_every_combination() -> None:
    domains = {f"metadata.k{number}": {"choices": [f"{choice}" for choice in range(100)]} for number in range(16)}
    whole = prepared(sweep(ranges(domains)))
    assert isinstance(whole.parameters, Bayesian)


def test_what_points_share_is_read_as_if_each_had_its_own() -> None:
    specs = PointSpecs(LAYERED)
    points: list[dict[str, Any]] = [
        {},
        {LEARNING_RATE: 0.25},
        {"network.layers.1.out_features": 16, LEARNING_RATE: 0.5},
        {"dataset.validation": 0.25},
        {"network": BASE["network"]},
        {"dataset": {"name": "mnist"}, LEARNING_RATE: 0.1},
    ]
    for point in [point | {"training.seed": 1} for point in points * 2]:
        assert specs.of(point) == spec_of(LAYERED, point) == JobSpec.model_validate(spec_of(LAYERED, point).as_json())


def test_values_that_are_equal_to_python_alone_are_told_apart() -> None:
    networks = [
        {"name": "sequential", "layers": [{"kind": "flatten"}, {"kind": "linear", "out_features": 10, "bias": bias}]}
        for bias in (True, 1, 1.0)
    ]
    assert networks[0] == networks[1] == networks[2]
    with pytest.raises(InvalidSpec) as refused:
        prepared(sweep(grid({"network": networks})))
    assert {error.loc for error in refused.value.errors} == {
        "parameters.values.network.1.layers.1.bias",
        "parameters.values.network.2.layers.1.bias",
    }


def test_a_network_that_points_share_does_not_fit_only_with_some_data() -> None:
    network = {"name": "sequential", "layers": [{"kind": "flatten"}, {"kind": "linear", "out_features": 10}]}
    with pytest.raises(InvalidSpec) as refused:
        prepared(sweep(grid({"dataset.name": ["digits", "cifar100"]}), spec=BASE | {"network": network}))
    found = [(error.loc, error.code) for error in refused.value.errors]
    assert found == [("parameters.values.dataset.name.1", "layer_does_not_fit")]


def test_more_than_can_be_checked_is_refused_and_what_is_shared_counts_once() -> None:
    classes = [f"{number} {'x' * 190}" for number in range(1_000)]
    images = {"name": "images", "folder": "f", "resize": 8, "classes": classes}
    spec = {"dataset": images, "network": {"name": "mlp"}}
    with pytest.raises(InvalidSpec) as refused:
        prepared(sweep(grid({"dataset.resize": list(range(8, 208))}), spec=spec))
    assert [(error.loc, error.code) for error in refused.value.errors] == [("parameters", "too_long")]
    assert prepared(sweep(grid({LEARNING_RATE: [0.1] * 1_000}), spec=spec)).parameters.size == 1_000
