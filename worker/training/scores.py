"""Confusion matrix, classification report and errors of a regression, as scikit-learn defines them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.result import AverageScores, ClassificationReport, ClassScores, RegressionScores, Scale

AS_LEARNED = Scale(shift=0.0, scale=1.0)


def confusion_matrix(labels: Tensor, predictions: Tensor, classes: int) -> list[list[int]]:
    """Count (true class, predicted class) pairs; rows are true classes, both tensors are int64 (N,)."""
    counts = torch.bincount(labels * classes + predictions, minlength=classes * classes)
    rows: list[list[int]] = counts.view(classes, classes).tolist()
    return rows


def classification_report(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> ClassificationReport:
    """Return precision, recall, F1 and support per class with their macro and support-weighted means.

    Follows sklearn.metrics.classification_report with labels=range(classes) and zero_division=0.
    """
    scores = [_class_scores(matrix, index, name) for index, name in enumerate(names)]
    total = sum(score.support for score in scores)
    correct = sum(matrix[index][index] for index in range(len(names)))
    return ClassificationReport(
        split="test",
        classes=scores,
        accuracy=_ratio(correct, total),
        macro_average=_average(scores, [1.0] * len(scores)),
        weighted_average=_average(scores, [float(score.support) for score in scores]),
    )


def regression_scores(targets: Tensor, predictions: Tensor, scale: Scale = AS_LEARNED) -> RegressionScores:
    """Return the errors over a split, computed in float64; both tensors are (N,).

    `scale` takes both back to where they came from, as x = scaled * scale + shift; without one they stay as they are.
    """
    actual, predicted = unscaled(targets, scale), unscaled(predictions, scale)
    squares = (actual - predicted).square()
    # Of equal targets the mean may differ from each by a rounding error, so they are not judged by their variance.
    constant = bool(actual.min() == actual.max())
    spread = (actual - actual.mean()).square().sum()
    return RegressionScores(
        mse=float(squares.mean()),
        mae=float((actual - predicted).abs().mean()),
        r2=None if constant else float(1 - squares.sum() / spread),
    )


def unscaled(values: Tensor, scale: Scale) -> Tensor:
    """Return the values in float64 where they came from: x = scaled * scale + shift."""
    return values.double() * scale.scale + scale.shift


def _class_scores(matrix: Sequence[Sequence[int]], index: int, name: str) -> ClassScores:
    hits = matrix[index][index]
    support = sum(matrix[index])
    predicted = sum(row[index] for row in matrix)
    return ClassScores(
        label=name,
        precision=_ratio(hits, predicted),
        recall=_ratio(hits, support),
        f1=_ratio(2 * hits, predicted + support),
        support=support,
    )


def _average(scores: Sequence[ClassScores], weights: Sequence[float]) -> AverageScores:
    total = sum(weights)

    def mean(values: Sequence[float]) -> float:
        return _ratio(sum(value * weight for value, weight in zip(values, weights, strict=True)), total)

    return AverageScores(
        precision=mean([score.precision for score in scores]),
        recall=mean([score.recall for score in scores]),
        f1=mean([score.f1 for score in scores]),
        support=sum(score.support for score in scores),
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
