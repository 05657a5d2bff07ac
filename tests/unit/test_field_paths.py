"""Where an error is said to be: at a field of what was sent, without the names that pydantic gives to union members."""

from typing import Any

import pytest
from pydantic import ValidationError

from models.spec import JobSpec
from models.validation import error_code, field_path

DIGITS, MLP = {"name": "digits"}, {"name": "mlp"}
TABLE: dict[str, Any] = {"name": "table", "file": "a.csv", "target": "y"}
CONV: dict[str, Any] = {"kind": "conv2d", "out_channels": 4, "kernel_size": 3}


def table(*features: Any) -> dict[str, Any]:
    return {"dataset": TABLE | {"features": list(features)}, "network": MLP}


def sequential(*layers: Any) -> dict[str, Any]:
    return {"dataset": DIGITS, "network": {"name": "sequential", "layers": list(layers)}}


def training(**fields: Any) -> dict[str, Any]:
    return {"dataset": DIGITS, "network": MLP, "training": fields}


@pytest.mark.parametrize(
    ("body", "path", "code"),
    [
        ([], "", "object_type"),
        ({"network": MLP}, "dataset", "missing"),
        ({"dataset": {}, "network": MLP}, "dataset.name", "missing"),
        ({"dataset": {"name": "table"}, "network": MLP}, "dataset.file", "missing"),
        (table(5), "dataset.features.0", "object_type"),
        (table("x" * 201), "dataset.features.0", "string_too_long"),
        (table("a", {}), "dataset.features.1.column", "missing"),
        (table("a", {"column": 7}), "dataset.features.1.column", "string_type"),
        (table({"kind": "one_hot", "column": "a"}), "dataset.features.0.categories", "missing"),
        (table({"kind": "picture", "column": "a"}), "dataset.features.0.kind", "literal_error"),
        (table("a", "a"), "dataset", "duplicate"),
        (training(optimizer={"momentum": 1.0}), "training.optimizer.momentum", "less_than"),
        (training(optimizer={"beta1": 0.5}), "training.optimizer.beta1", "extra_forbidden"),
        (training(optimizer={"name": "adam", "beta1": 1}), "training.optimizer.beta1", "less_than"),
        (training(optimizer=3), "training.optimizer", "object_type"),
        (training(schedule={"name": "step"}), "training.schedule.every", "missing"),
        (training(schedule={}), "training.schedule.name", "missing"),
        (training(schedule={"name": "multi_step", "after": [3, 0]}), "training.schedule.after.1", "greater_than_equal"),
        (training(epochs=0) | {"name": "training"}, "training.epochs", "greater_than_equal"),
        (training(augmentation={"cutout": {"size": 0}}), "training.augmentation.cutout.size", "greater_than_equal"),
        (sequential({"kind": "conv2d", "conv2d": 1}), "network.layers.0.conv2d", "extra_forbidden"),
        (
            sequential({"kind": "residual", "layers": [{"kind": "relu"}, CONV | {"kernel_size": 0}]}),
            "network.layers.0.layers.1.kernel_size",
            "greater_than_equal",
        ),
        (sequential({"kind": "residual", "layers": [{}]}), "network.layers.0.layers.0.kind", "missing"),
        ({"dataset": DIGITS, "network": {"name": "cnn", "batch_norm": 7}}, "network.batch_norm", "literal_error"),
    ],
)
def test_an_error_is_at_the_field_that_was_sent(body: Any, path: str, code: str) -> None:
    with pytest.raises(ValidationError) as refused:
        JobSpec.model_validate(body)
    found = [(field_path(error, error["loc"], body), error_code(error)) for error in refused.value.errors()]
    assert (path, code) in found
    assert {where.split(".")[0] for where, _ in found} <= {"", "dataset", "network", "training"}
