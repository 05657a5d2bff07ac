"""What a diagnosis says of the data and of the network, and what holds of every diagnosis."""

import json
import math
from collections.abc import Mapping
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.result import Diagnosis, EpochMetrics
from worker.diagnosis import DeadUnits, Evidence, SharedModule, Splits, diagnose

SAMPLES = {"train": 9_000, "validation": 1_000, "test": 2_000}


def only(evidence: Evidence) -> Diagnosis:
    (found,) = diagnose(evidence)
    return found


def test_nothing_known_says_nothing() -> None:
    assert diagnose(Evidence()) == []


# The data


def test_validation_on_the_test_split_is_a_warning_and_none_is_for_information() -> None:
    on_test = only(Evidence(validation="test"))
    assert (on_test.code, on_test.level) == ("validated_on_test", "warning")
    nothing = only(Evidence(validation=0.0))
    assert (nothing.code, nothing.level) == ("not_validated", "info")
    assert "training accuracy" in nothing.message
    assert "training loss" in only(Evidence(validation=0.0, task="regression")).message
    assert diagnose(Evidence(validation=0.1)) == []


@pytest.mark.parametrize(
    ("shared", "level"), [(1, "info"), (19, "info"), (20, "warning"), (99, "warning"), (100, "error"), (2_000, "error")]
)
def test_leakage_is_as_grave_as_its_share_of_the_second_split(shared: int, level: str) -> None:
    found = only(Evidence(shared_samples={"train/test": shared}, samples=SAMPLES))
    assert (found.code, found.level) == ("leakage", level)
    assert found.evidence["share"] == shared / 2_000
    stand = (
        "1 sample of the test split also stands" if shared == 1 else f"{shared:,} samples of the test split also stand"
    )
    assert f"{stand} in the train split" in found.message
    assert ("scores are too good" in found.message) is (level != "info")


def test_each_pair_of_splits_leaks_by_itself_and_none_without_shared_samples() -> None:
    shared = {"train/validation": 3, "train/test": 400, "validation/test": 0}
    first, second = diagnose(Evidence(shared_samples=shared, samples=SAMPLES))
    assert (first.level, first.evidence["second"]) == ("error", "test")
    assert (second.level, second.evidence["second"]) == ("info", "validation")
    assert diagnose(Evidence(shared_samples={"train/test": 0}, samples=SAMPLES)) == []


@pytest.mark.parametrize(
    ("classes", "level"),
    [
        ({"a": 400, "b": 101}, None),
        ({"a": 400, "b": 100, "c": 300}, "info"),
        ({"a": 899, "b": 100}, "info"),
        ({"a": 900, "b": 100}, "warning"),
        ({"a": 900, "b": 0, "c": 900}, "error"),
        ({"a": 0, "b": 0}, None),
        ({"1": 13_861, "9": 4_659}, None),  # the extremes of SVHN
    ],
)
def test_classes_are_imbalanced_by_the_ratio_of_the_largest_to_the_smallest(
    classes: Mapping[str, int], level: str | None
) -> None:
    found = {diagnosis.code: diagnosis.level for diagnosis in diagnose(Evidence(train_classes=classes))}
    assert found == ({"class_imbalance": level} if level else {})


def test_a_class_without_training_samples_is_named() -> None:
    assert "'cat'" in only(Evidence(train_classes={"cat": 0, "dog": 10})).message


# The network


def test_shared_weights_are_named_with_how_often_they_are_applied() -> None:
    found = only(Evidence(shared_modules=[SharedModule("3", 10), SharedModule("5.layers.0", 2)]))
    assert (found.code, found.level) == ("weights_shared", "info")
    assert "layer 3 (10 times) and layer 5.layers.0 (2 times)" in found.message
    assert found.evidence == {"layers": ["3", "5.layers.0"], "times": [10, 2], "batch_norm": [False, False]}


def test_shared_batch_norm_is_warned_of_because_its_statistics_suit_no_application() -> None:
    found = only(Evidence(shared_modules=[SharedModule("3", 10, batch_norm=True), SharedModule("5", 2)]))
    assert found.level == "warning"
    assert "The batch norm in layer 3 has one set of running statistics" in found.message
    assert found.evidence["batch_norm"] == [True, False]


@pytest.mark.parametrize(
    ("dead", "level"), [(9, None), (10, "info"), (39, "info"), (40, "warning"), (99, "warning"), (100, "error")]
)
def test_dead_units_are_as_grave_as_their_share_of_the_layer(dead: int, level: str | None) -> None:
    found = diagnose(Evidence(dead_units=[DeadUnits("1", "relu", dead, 100), DeadUnits("4", "relu", 1, 512)]))
    assert [diagnosis.level for diagnosis in found] == ([level] if level else [])
    if found:
        assert found[0].code == "dead_units"
        assert found[0].evidence == {"layers": ["1"], "dead": [dead], "units": [100]}
        assert f"{dead} of 100 units of layer 1 (relu)" in found[0].message


def test_the_layers_with_most_dead_units_are_named_first() -> None:
    layers = [DeadUnits(str(index), "relu", index, 10) for index in range(1, 10)]
    found = only(Evidence(dead_units=layers))
    assert found.evidence["layers"] == [str(index) for index in range(9, 0, -1)]
    assert "9 of 10 units of layer 9" in found.message
    assert "6 more" in found.message


def test_parameters_without_gradient_are_named_and_counted() -> None:
    found = only(Evidence(parameters_without_gradient=["2.weight", "2.bias"]))
    assert (found.code, found.level) == ("parameter_without_gradient", "warning")
    assert "2.weight and 2.bias" in found.message
    many = only(Evidence(parameters_without_gradient=[f"{index}.weight" for index in range(500)]))
    assert len(many.evidence["parameters"]) == 100
    assert many.evidence["count"] == 500
    assert diagnose(Evidence(parameters_without_gradient=[])) == []


# Every diagnosis


def test_the_gravest_comes_first() -> None:
    evidence = Evidence(
        validation="test",
        shared_modules=[SharedModule("3", 10)],
        shared_samples={"train/test": 1_000},
        samples=SAMPLES,
    )
    assert [diagnosis.level for diagnosis in diagnose(evidence)] == ["error", "warning", "info"]


LOSS = st.one_of(st.sampled_from([0.0, 1e-30, 0.0434, 2.3, 1e30]), st.floats(0, 10))
FRACTION = st.floats(0, 1)
OPTIONAL_FRACTION = st.none() | FRACTION
COUNTS = st.dictionaries(st.sampled_from("abc"), st.integers(0, 2_000))


@st.composite
def histories(draw: st.DrawFn) -> list[EpochMetrics]:
    start, step = draw(st.sampled_from([0, 1])), draw(st.sampled_from([1, 10]))
    return [
        EpochMetrics(
            epoch=start + step * index,
            train_loss=draw(LOSS),
            train_accuracy=draw(OPTIONAL_FRACTION),
            validation_loss=draw(st.none() | LOSS),
            validation_accuracy=draw(OPTIONAL_FRACTION),
            learning_rate=draw(st.floats(0, 1)),
            penalty=0.0,
            seconds=1.0,
            train_seconds=1.0,
        )
        for index in range(draw(st.integers(0, 25)))
    ]


@given(
    epochs=histories(),
    task=st.sampled_from(["classification", "regression"]),
    accuracy=st.builds(Splits, OPTIONAL_FRACTION, OPTIONAL_FRACTION, OPTIONAL_FRACTION),
    r2=st.builds(Splits, st.none() | st.floats(-1e9, 1), st.none(), st.none() | st.floats(-1e9, 1)),
    train_classes=COUNTS,
    test_classes=COUNTS,
    weights_epoch=st.none() | st.integers(1, 25),
)
def test_every_diagnosis_is_a_sentence_with_finite_numbers(
    epochs: list[EpochMetrics], task: Literal["classification", "regression"], **known: Any
) -> None:
    for diagnosis in diagnose(Evidence(epochs=epochs, task=task, **known)):
        assert diagnosis.message.endswith(".")
        assert "  " not in diagnosis.message
        assert diagnosis.evidence
        assert json.loads(json.dumps(diagnosis.evidence, allow_nan=False)) == diagnosis.evidence


def metrics(epoch: int, loss: float) -> EpochMetrics:
    return EpochMetrics(
        epoch=epoch,
        train_loss=loss,
        train_accuracy=None,
        validation_loss=loss,
        validation_accuracy=None,
        learning_rate=0.01,
        penalty=0.0,
        seconds=1.0,
        train_seconds=1.0,
    )


def test_epochs_whose_loss_is_not_finite_are_left_out() -> None:
    epochs = [metrics(epoch, math.nan if epoch == 5 else 2.0 - 0.05 * epoch) for epoch in range(1, 20)]
    found = only(Evidence(epochs=[*epochs, metrics(20, math.inf)]))
    assert found.code == "not_converged"
    assert found.evidence["to_epoch"] == 19


def test_the_untrained_network_is_no_epoch_of_training() -> None:
    still = [metrics(epoch, 0.5) for epoch in range(1, 5)]
    assert only(Evidence(epochs=[metrics(0, 2.3), *still])).code == "loss_did_not_move"
