"""Confusion matrix and classification report against scikit-learn."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from models.result import AverageScores, ClassScores
from worker.training.scores import classification_report, confusion_matrix

# scikit-learn says so of every 1x1 matrix, also where `labels` names its one class.
pytestmark = pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")


def require_sklearn_agrees(labels: Sequence[int], predictions: Sequence[int], classes: int) -> None:
    matrix = confusion_matrix(torch.tensor(labels), torch.tensor(predictions), classes)
    assert matrix == metrics.confusion_matrix(labels, predictions, labels=range(classes)).tolist()

    names = [f"class {index}" for index in range(classes)]
    report = classification_report(matrix, names)
    expected = metrics.classification_report(
        labels, predictions, labels=range(classes), target_names=names, output_dict=True, zero_division=0
    )
    assert [scores.label for scores in report.classes] == names
    ours: dict[str, ClassScores | AverageScores] = {scores.label: scores for scores in report.classes}
    ours |= {"macro avg": report.macro_average, "weighted avg": report.weighted_average}
    assert {*ours, "accuracy"} == set(expected)
    for name, scores in ours.items():
        theirs = expected[name]
        found = (scores.precision, scores.recall, scores.f1)
        assert found == pytest.approx((theirs["precision"], theirs["recall"], theirs["f1-score"]), abs=1e-12, rel=0)
        assert scores.support == theirs["support"]
    assert report.accuracy == pytest.approx(expected["accuracy"], abs=1e-12, rel=0)


@st.composite
def predictions_of(draw: st.DrawFn) -> tuple[list[int], list[int], int]:
    """Labels and predictions drawn from subsets of the classes, so that some are absent from either."""
    classes = draw(st.integers(1, 12))
    some = st.lists(st.integers(0, classes - 1), min_size=1, max_size=classes, unique=True)
    present, predicted = draw(some), draw(some)
    pairs = draw(st.lists(st.tuples(st.sampled_from(present), st.sampled_from(predicted)), min_size=1, max_size=60))
    return [label for label, _ in pairs], [prediction for _, prediction in pairs], classes


@given(drawn=predictions_of())
def test_scores_are_those_of_scikit_learn(drawn: tuple[list[int], list[int], int]) -> None:
    require_sklearn_agrees(*drawn)


def test_scores_of_a_whole_test_split_are_those_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(10, (10_000,), generator=generator)
    guesses = torch.randint(10, (10_000,), generator=generator)
    right = torch.rand(10_000, generator=generator) < 0.67
    require_sklearn_agrees(labels.tolist(), torch.where(right, labels, guesses).tolist(), 10)


@pytest.mark.parametrize(
    ("labels", "predictions", "classes"),
    [
        pytest.param([0, 1, 2, 2, 1], [0, 1, 1, 0, 1], 3, id="a class never predicted"),
        pytest.param([0, 1, 1, 0], [0, 2, 1, 2], 3, id="a class never present"),
        pytest.param([0, 2, 0, 2], [2, 0, 2, 0], 4, id="a class neither present nor predicted, and no hit"),
        pytest.param([0, 0, 0], [0, 0, 0], 1, id="one class"),
        pytest.param([3], [1], 5, id="one sample"),
    ],
)
def test_scores_of_a_corner_case_are_those_of_scikit_learn(
    labels: list[int], predictions: list[int], classes: int
) -> None:
    require_sklearn_agrees(labels, predictions, classes)


def test_rows_of_the_confusion_matrix_are_true_classes() -> None:
    matrix = confusion_matrix(torch.tensor([0, 0, 0, 1]), torch.tensor([1, 1, 0, 1]), 2)
    assert matrix == [[1, 2], [0, 1]]
    zero, one = classification_report(matrix, ["zero", "one"]).classes
    assert (zero.precision, zero.recall, zero.support) == (1, 1 / 3, 3)
    assert (one.precision, one.recall, one.support) == (1 / 3, 1, 1)
