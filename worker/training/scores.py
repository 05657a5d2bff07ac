"""Confusion matrix and classification report, as scikit-learn defines them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.result import AverageScores, ClassificationReport, ClassScores


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
