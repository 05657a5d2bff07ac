"""What a job says of its splits: a fraction held out, the test split as validation, and no validation at all."""

import multiprocessing
import threading
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from models.result import Result
from models.spec import JobSpec
from worker.messages import Assignment
from worker.report import diagnose
from worker.runner import _Run

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


def assignment(spec: JobSpec, artifacts: Path, datasets: Path) -> Assignment:
    return Assignment(
        job_id=uuid4(),
        attempt=1,
        spec=spec,
        artifacts=artifacts,
        datasets=datasets,
        download=False,
        checkpoints=[],
        threads=1,
        gpu=None,
        git_commit=None,
    )


def result_of(validation: Any, artifacts: Path, datasets: Path) -> Result:
    """Run one attempt as the runner does, in this process."""
    task = assignment(spec_with(validation), artifacts, datasets)
    told, tell = multiprocessing.Pipe(duplex=False)
    with told, tell:
        outcome = _Run(task, tell, threading.Event()).outcome()
    assert outcome is not None
    return Result.model_validate(outcome.result)


def samples_of(result: Result) -> dict[str, int]:
    for split in result.dataset.splits.values():
        assert split.samples == sum(split.classes.values())
    return {name: split.samples for name, split in result.dataset.splits.items()}


def require_consistent(result: Result) -> None:
    """Hold figures that say the same thing in two places to each other."""
    curves = result.curves
    assert curves.epoch == [1, 2, 3]
    # Evaluated again at the end, on the same weights in the same mode: the same number.
    assert (curves.validation_loss[-1], curves.validation_accuracy[-1]) == (
        result.loss.validation,
        result.accuracy.validation,
    )
    hits = sum(result.confusion_matrix[index][index] for index in range(10))
    assert sum(map(sum, result.confusion_matrix)) == DIGITS_TEST
    assert result.accuracy.test == result.classification_report.accuracy == hits / DIGITS_TEST
    picked_by = curves.validation_accuracy if result.accuracy.validation is not None else curves.train_accuracy
    accuracies = [accuracy for accuracy in picked_by if accuracy is not None]
    assert result.best_epoch == 1 + accuracies.index(max(accuracies))
    assert result.worst_epoch == 1 + accuracies.index(min(accuracies))


def test_a_fraction_is_held_out_of_the_training_split(tmp_path: Path, digits_cache: Path) -> None:
    result = result_of(0.2, tmp_path, digits_cache)
    require_consistent(result)
    assert samples_of(result) == {"train": DIGITS_TRAIN - 287, "validation": 287, "test": DIGITS_TEST}
    assert result.loss.validation not in {None, result.loss.test, result.loss.train}
    assert result.diagnosis == []


def test_a_validation_on_the_test_split_is_said_aloud(tmp_path: Path, digits_cache: Path) -> None:
    result = result_of("test", tmp_path, digits_cache)
    require_consistent(result)
    assert samples_of(result) == {"train": DIGITS_TRAIN, "test": DIGITS_TEST}
    assert (result.loss.validation, result.accuracy.validation) == (result.loss.test, result.accuracy.test)
    (diagnosis,) = result.diagnosis
    assert (diagnosis.code, diagnosis.level) == ("validated_on_test", "warning")
    assert "optimistic" in diagnosis.message


def test_without_validation_the_epochs_are_ranked_by_training_accuracy(tmp_path: Path, digits_cache: Path) -> None:
    result = result_of(0, tmp_path, digits_cache)
    require_consistent(result)
    assert samples_of(result) == {"train": DIGITS_TRAIN, "test": DIGITS_TEST}
    assert (result.loss.validation, result.accuracy.validation) == (None, None)
    assert result.curves.validation_loss == result.curves.validation_accuracy == [None] * 3
    (diagnosis,) = result.diagnosis
    assert (diagnosis.code, diagnosis.level) == ("not_validated", "info")


@pytest.mark.parametrize(
    ("validation", "codes"), [(0.1, []), (0.9, []), ("test", ["validated_on_test"]), (0, ["not_validated"])]
)
def test_a_diagnosis_is_given_where_the_validation_is_not_what_a_reader_expects(
    validation: Any, codes: list[str]
) -> None:
    assert [diagnosis.code for diagnosis in diagnose(spec_with(validation))] == codes


def test_the_validation_split_follows_from_the_seed_of_the_spec(tmp_path: Path) -> None:
    labels = np.arange(1_000) % 10

    def held_out(seed: int) -> list[int]:
        spec = spec_with(0.1)
        spec = spec.model_copy(update={"training": spec.training.model_copy(update={"seed": seed})})
        told, tell = multiprocessing.Pipe(duplex=False)
        with told, tell:
            _, indices = _Run(assignment(spec, tmp_path, tmp_path), tell, threading.Event())._validation_split(labels)
        assert indices is not None
        return list(indices)

    assert held_out(1) == held_out(1)
    assert held_out(1) != held_out(2)
