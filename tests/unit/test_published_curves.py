"""The verdict on the reference runs from their published curves alone.

Every tenth epoch is printed, and validation there was measured before the epoch's training: one epoch late.
"""

from collections.abc import Iterator

import pytest

from models.recipes import PublishedCurve, all_recipes
from models.result import Diagnosis, EpochMetrics
from worker.diagnosis import Evidence, Splits, diagnose

# Training and test accuracy that the write-ups report; they have no validation curve of these.
REPORTED = {
    "cnn2-tanh": (0.77, 0.60),
    "cnn3-tanh": (0.66, 0.62),
    "resnet10-bn": (1.00, 0.67),
    "cnn2-wide-l2": (0.85, 0.68),
    "cnn2-wide-dropout": (0.69, 0.62),
}


@pytest.fixture(scope="module")
def published() -> dict[str, list[EpochMetrics]]:
    return {name: list(_epochs(recipe.reference.curve)) for name, recipe in all_recipes().items()}


def _epochs(curve: PublishedCurve | None) -> Iterator[EpochMetrics]:
    if curve is None:
        return
    nothing = [None] * len(curve.epoch)
    for index, epoch in enumerate(curve.epoch):
        yield EpochMetrics(
            epoch=epoch,
            train_loss=curve.train_loss[index],
            train_accuracy=(curve.train_accuracy or nothing)[index],
            validation_loss=(curve.validation_loss or nothing)[index],
            validation_accuracy=(curve.validation_accuracy or nothing)[index],
            learning_rate=0.01,
            penalty=0.0,
            seconds=1.0,
            train_seconds=1.0,
        )


def found_in(evidence: Evidence) -> dict[str, Diagnosis]:
    return {diagnosis.code: diagnosis for diagnosis in diagnose(evidence)}


@pytest.mark.parametrize(
    ("run", "level", "best_epoch", "best_loss"),
    [
        ("resnet10", "warning", 140, 0.940446),
        ("resnet10-l2", "warning", 120, 0.936178),
        ("resnet10-bn-after-relu", "error", 60, 1.253299),
    ],
)
def test_the_reference_runs_that_overfit_are_called_so(
    published: dict[str, list[EpochMetrics]], run: str, level: str, best_epoch: int, best_loss: float
) -> None:
    found = found_in(Evidence(epochs=published[run]))
    assert found.keys() == {"overfitting"}
    overfitting = found["overfitting"]
    assert overfitting.level == level
    assert overfitting.evidence["best_epoch"] == best_epoch
    assert overfitting.evidence["best_validation_loss"] == best_loss
    assert best_epoch < overfitting.evidence["onset_epoch"] < 300
    assert overfitting.evidence["accuracy_gap_at_end"] > overfitting.evidence["accuracy_gap_at_best"]
    assert f"after epoch {best_epoch}" in overfitting.message


@pytest.mark.parametrize("run", ["resnet10", "resnet10-l2", "resnet10-bn-after-relu"])
def test_they_do_not_overfit_before_they_turn(published: dict[str, list[EpochMetrics]], run: str) -> None:
    until_epoch_60 = [metrics for metrics in published[run] if metrics.epoch <= 60]
    found = found_in(Evidence(epochs=until_epoch_60))
    # One gap was wide from the beginning: batch norm after each application of a shared block.
    turned = "best_epoch" in found["overfitting"].evidence if "overfitting" in found else False
    assert not turned
    assert ("overfitting" in found) is (run == "resnet10-bn-after-relu")


@pytest.mark.parametrize(
    ("run", "codes"),
    [("cnn2-relu", set()), ("cnn3-relu", {"not_converged"}), ("resnet10-dropout", set())],
)
def test_those_that_do_not_overfit_are_not_called_so(
    published: dict[str, list[EpochMetrics]], run: str, codes: set[str]
) -> None:
    assert found_in(Evidence(epochs=published[run])).keys() == codes


@pytest.mark.parametrize(
    ("run", "overfits"),
    [
        ("cnn2-tanh", True),
        ("cnn3-tanh", False),
        ("resnet10-bn", True),
        ("cnn2-wide-l2", True),
        ("cnn2-wide-dropout", False),
    ],
)
def test_without_a_validation_curve_the_reported_accuracies_decide(
    published: dict[str, list[EpochMetrics]], run: str, overfits: bool
) -> None:
    train, test = REPORTED[run]
    evidence = Evidence(epochs=published[run], accuracy=Splits(train=train, test=test), samples={"test": 10_000})
    found = found_in(evidence)
    assert found.keys() == ({"overfitting"} if overfits else set())
    assert found_in(Evidence(epochs=published[run])) == {}


@pytest.mark.parametrize("spoilt", range(5))
def test_a_single_bad_epoch_changes_no_verdict(published: dict[str, list[EpochMetrics]], spoilt: int) -> None:
    for run in ("cnn2-relu", "cnn3-relu", "resnet10-dropout", "resnet10", "resnet10-l2", "resnet10-bn-after-relu"):
        epochs = list(published[run])
        index = len(epochs) - 1 - 4 * spoilt
        loss = epochs[index].validation_loss
        assert loss is not None
        epochs[index] = epochs[index].model_copy(update={"validation_loss": 1.5 * loss})
        before, after = found_in(Evidence(epochs=published[run])), found_in(Evidence(epochs=epochs))
        assert ("overfitting" in before) == ("overfitting" in after)
