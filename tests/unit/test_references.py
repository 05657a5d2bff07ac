"""Where the networks of two specs first differ."""

from typing import Any
from uuid import uuid4

import pytest

from models.errors import InvalidSpec
from models.references import Referenced, first_difference, unmet_of
from models.spec import JobSpec


def spec(network: dict[str, Any], **dataset: Any) -> dict[str, Any]:
    return JobSpec.model_validate({"dataset": {"name": "digits"} | dataset, "network": network}).resolved().as_json()


MLP = {"name": "mlp", "hidden": [64, 32]}
RESNET18 = {"name": "torchvision", "architecture": "resnet18"}
COLOUR = {"name": "cifar10"}


def test_the_same_network_under_another_name_is_the_same() -> None:
    as_layers = {
        "name": "sequential",
        "layers": [
            {"kind": "flatten"},
            *({"kind": "linear", "out_features": 64}, {"kind": "relu"}),
            *({"kind": "linear", "out_features": 32}, {"kind": "relu"}),
            {"kind": "linear", "out_features": 10},
        ],
    }
    assert first_difference(spec(MLP), spec(as_layers)) is None
    assert first_difference(spec(RESNET18, **COLOUR), spec(RESNET18, **COLOUR)) is None


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (spec({"name": "mlp", "hidden": [64, 33]}), "its layer 3 (linear) differs in out_features"),
        (spec({"name": "mlp", "hidden": [64]}), "its layer 3 (linear) differs in out_features"),
        (spec(MLP | {"activation": "tanh"}), "its layer 2 is tanh, not relu."),
        (spec(MLP, resize=16), "it takes inputs of the shape (1, 16, 16), not (1, 8, 8)."),
        (spec(RESNET18, **COLOUR), "it is name torchvision, architecture resnet18"),
        ({"network": "of an earlier version"}, "its spec is of an earlier version of the service."),
    ],
)
def test_the_first_difference_is_named(other: dict[str, Any], said: str) -> None:
    difference = first_difference(spec(MLP), other)
    assert difference is not None
    assert difference.startswith(said)


def test_a_layer_more_or_less_is_named() -> None:
    head = [{"kind": "flatten"}, {"kind": "linear", "out_features": 10}]
    short = spec({"name": "sequential", "layers": head})
    long = spec({"name": "sequential", "layers": [*head, {"kind": "dropout", "probability": 0.1}]})
    assert first_difference(short, long) == "it has one more layer, 2 (dropout)."
    assert first_difference(long, short) == "it has no layer 2 (dropout)."


def test_classifiers_of_torchvision_differ_by_their_settings_and_their_data() -> None:
    mine = spec(RESNET18, **COLOUR)
    other = first_difference(mine, spec(RESNET18 | {"architecture": "resnet34"}, **COLOUR))
    assert other is not None
    assert "resnet34" in other
    assert first_difference(mine, spec(RESNET18, name="cifar100")) == (
        "it maps inputs of (3, 32, 32) to 100 outputs, not (3, 32, 32) to 10."
    )


@pytest.mark.parametrize(
    ("status", "lost", "named_twice", "said"),
    [
        ("running", False, False, "has no checkpoint yet; name it in `depends_on`"),
        ("running", False, True, None),
        ("succeeded", True, False, "were removed"),
        ("succeeded", True, True, "were removed"),
    ],
)
def test_weights_that_are_not_there_are_refused_for_what_they_are(
    status: str, lost: bool, named_twice: bool, said: str | None
) -> None:
    source, owner = uuid4(), uuid4()
    jobs = {source: Referenced(source, owner, status, spec(MLP), has_checkpoint=False, lost_checkpoints=lost)}
    mine = spec(MLP) | {"initial_checkpoint": {"job": str(source)}, "depends_on": [str(source)] if named_twice else []}
    if said is None:
        assert unmet_of(mine, jobs, lambda _: True) == [source]
        return
    with pytest.raises(InvalidSpec, match=said) as refused:
        unmet_of(mine, jobs, lambda _: True)
    assert ("yet" in str(refused.value)) is not lost
