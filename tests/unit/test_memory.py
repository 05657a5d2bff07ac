"""The least memory of a training: the figure by hand, and what no GPU can hold is refused by it."""

from typing import Any

import pytest

from api.jobs.schemas import ValidatedView
from models.errors import InvalidSpec
from models.memory import MAX_TRAINING_BYTES, bytes_at_least
from models.spec import JobSpec

# 64 inputs, one hidden layer of 10, 10 classes: 64 * 10 + 10 + 10 * 10 + 10 parameters, and no tensor beyond the input.
PARAMETERS, INPUTS = 760, 64
# A map of 1,024 x 256 x 256 values: 256 MiB per sample.
LAYERS = [
    {"kind": "conv2d", "out_channels": 1_024, "kernel_size": 1},
    {"kind": "global_avg_pool2d"},
    {"kind": "flatten"},
    {"kind": "linear", "out_features": 10},
]
HEAVY = {"dataset": {"name": "cifar10", "resize": 256}, "network": {"name": "sequential", "layers": LAYERS}}


def least(dataset: dict[str, Any] | None = None, hidden: int = 10, **training: Any) -> int:
    spec = JobSpec.model_validate(
        {"dataset": {"name": "digits"} | (dataset or {}), "network": {"name": "mlp", "hidden": [hidden]}}
        | {"training": training}
    )
    summary = spec.summary()
    assert summary is not None
    return bytes_at_least(summary, spec.training, spec.dataset)


def refusal(**parts: Any) -> Any:
    with pytest.raises(InvalidSpec) as refused:
        JobSpec.model_validate(HEAVY | parts).resolved()
    (error,) = refused.value.errors
    return error


@pytest.mark.parametrize(
    ("optimizer", "copies"),
    [
        ({"name": "sgd"}, 2),
        ({"name": "sgd", "momentum": 0.9}, 3),
        ({"name": "rmsprop"}, 3),
        ({"name": "rmsprop", "momentum": 0.9}, 4),
        ({"name": "adam"}, 4),
        ({"name": "adamw"}, 4),
    ],
)
def test_weights_gradients_and_the_optimisers_state_are_counted(optimizer: dict[str, Any], copies: int) -> None:
    assert least(optimizer=optimizer, batch_size=1) == 4 * PARAMETERS * copies + 4 * INPUTS


def test_the_largest_tensor_of_a_batch_is_counted() -> None:
    assert least(batch_size=100) - least(batch_size=1) == 99 * 4 * INPUTS
    wide = least(hidden=1_000, batch_size=100) - least(hidden=1_000, batch_size=1)
    assert wide == 99 * 4 * 1_000
    assert least(hidden=1_000, batch_size=100, precision="bfloat16") == least(hidden=1_000, batch_size=50)


def test_a_batch_is_no_larger_than_the_training_split() -> None:
    assert least(batch_size=1_048_576) == least(batch_size=1_293)  # nine tenths of 1,437
    assert least({"validation": "test"}, batch_size=1_048_576) == least(
        batch_size=1_437, dataset={"validation": "test"}
    )


def test_a_validated_spec_shows_the_figure() -> None:
    spec = JobSpec.model_validate({"dataset": {"name": "digits"}, "network": {"name": "mlp", "hidden": [10]}})
    assert ValidatedView.of(spec).memory_bytes_at_least == 4 * PARAMETERS * 2 + 64 * 4 * INPUTS
    unknown = {"name": "torchvision", "architecture": "resnet18"}
    spec = JobSpec.model_validate({"dataset": {"name": "cifar10"}, "network": unknown})
    assert ValidatedView.of(spec).memory_bytes_at_least is None


def test_of_data_of_ones_own_one_sample_is_certain() -> None:
    table = {"name": "table", "file": "a.csv", "target": "t", "features": ["x", "y"], "classes": ["a", "b"]}
    network = {"name": "mlp", "hidden": [65_536]}
    spec = JobSpec.model_validate({"dataset": table, "network": network, "training": {"batch_size": 1_048_576}})
    assert spec.resolved().training.batch_size == 1_048_576


def test_a_batch_that_no_gpu_holds_is_refused_with_the_figure() -> None:
    error = refusal(training={"batch_size": 40_000})
    assert (error.loc, error.code) == ("training.batch_size", "memory_exceeded")
    assert MAX_TRAINING_BYTES == 432 * 2**30
    assert "10,000 GiB" in error.message
    assert "no GPU has more than 432 GiB" in error.message


def test_the_same_network_with_a_batch_that_fits_is_taken() -> None:
    assert JobSpec.model_validate(HEAVY | {"training": {"batch_size": 1_024}}).resolved().summary() is not None
