"""What a job says of its splits: a fraction held out, the test split as validation, and no validation at all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.result import Result
from models.spec import JobSpec
from worker import datasets

RunJob = Callable[[JobSpec], Result]

DIGITS_TRAIN, DIGITS_TEST = 1_437, 360


def spec_with(validation: Any) -> JobSpec:
    return JobSpec.model_validate(
        {
            "dataset": {"name": "digits", "validation": validation},
            "network": {"name": "mlp", "hidden": [24], "dropout": 0.2},
            "training": {"epochs": 3, "seed": 7, "optimizer": {"learning_rate": 0.1}},
            "resources": {"device": "cpu"},
        }
    ).resolved()


def samples_of(result: Result) -> dict[str, int]:
    for split in result.dataset.splits.values():
        assert split.samples == sum(split.classes.values())
    return {name: split.samples for name, split in result.dataset.splits.items()}


def require_consistent(result: Result) -> None:
    """Hold figures that say the same thing in two places to each other."""
    curves, accuracy = result.curves, result.accuracy
    assert accuracy is not None
    assert result.confusion_matrix is not None
    assert result.classification_report is not None
    assert (curves.epoch, result.weights_epoch) == ([1, 2, 3], 3)
    # Evaluated again at the end, on the same weights in the same mode: the same number.
    assert (curves.validation_loss[-1], curves.validation_accuracy[-1]) == (result.loss.validation, accuracy.validation)
    hits = sum(result.confusion_matrix[index][index] for index in range(10))
    assert sum(sum(row) for row in result.confusion_matrix) == DIGITS_TEST
    assert accuracy.test == result.classification_report.accuracy == hits / DIGITS_TEST
    picked_by = curves.train_accuracy if accuracy.validation is None else curves.validation_accuracy
    accuracies = [value for value in picked_by if value is not None]
    assert result.best_epoch == 1 + accuracies.index(max(accuracies))
    assert result.worst_epoch == 1 + accuracies.index(min(accuracies))


def said_of_the_validation(result: Result) -> list[tuple[str, str]]:
    codes = {"validated_on_test", "not_validated"}
    return [(diagnosis.code, diagnosis.level) for diagnosis in result.diagnosis if diagnosis.code in codes]


def test_a_fraction_is_held_out_of_the_training_split(result_of: RunJob) -> None:
    result = result_of(spec_with(0.2))
    require_consistent(result)
    assert samples_of(result) == {"train": DIGITS_TRAIN - 287, "validation": 287, "test": DIGITS_TEST}
    assert result.loss.validation not in {None, result.loss.test, result.loss.train}
    assert said_of_the_validation(result) == []


def test_a_validation_on_the_test_split_is_said_aloud(result_of: RunJob) -> None:
    result = result_of(spec_with("test"))
    require_consistent(result)
    assert samples_of(result) == {"train": DIGITS_TRAIN, "test": DIGITS_TEST}
    assert result.accuracy is not None
    assert (result.loss.validation, result.accuracy.validation) == (result.loss.test, result.accuracy.test)
    assert said_of_the_validation(result) == [("validated_on_test", "warning")]


def test_without_validation_the_epochs_are_ranked_by_training_accuracy(result_of: RunJob) -> None:
    result = result_of(spec_with(0))
    require_consistent(result)
    assert samples_of(result) == {"train": DIGITS_TRAIN, "test": DIGITS_TEST}
    assert result.accuracy is not None
    assert (result.loss.validation, result.accuracy.validation) == (None, None)
    assert result.curves.validation_loss == result.curves.validation_accuracy == [None] * 3
    assert said_of_the_validation(result) == [("not_validated", "info")]


def test_the_validation_split_follows_from_the_seed_of_the_spec(digits_cache: Path) -> None:
    def held_out(seed: int) -> bytes:
        prepared = datasets.prepare(spec_with(0.1).dataset, seed=seed, root=digits_cache)
        assert prepared.validation is not None
        return prepared.validation.inputs.tobytes()

    assert held_out(1) == held_out(1)
    assert held_out(1) != held_out(2)
