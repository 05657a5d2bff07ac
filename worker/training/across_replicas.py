"""Figures of all replicas together: means, sample standard deviations and confidence intervals."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from scipy.special import stdtrit  # type: ignore[import-untyped]

from models.result import EpochMetrics, ReplicaCurve, ReplicaCurves, ReplicaEpoch, ReplicaFigure, ReplicaScore

_CONFIDENCE = 0.95


def figure_of(values: Sequence[float | None]) -> ReplicaFigure | None:
    """Return mean and sample standard deviation of at least two values; None where one of them does not exist."""
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values):
        return None
    return ReplicaFigure(mean=fmean(numbers), standard_deviation=stdev(numbers), values=numbers)


def score_of(values: Sequence[float | None]) -> ReplicaScore | None:
    """Return the same with the interval that holds the mean of all seeds with a confidence of 95 %.

    It is mean +- t * s / sqrt(n), where t is the 0.975 quantile of Student's distribution with n - 1 degrees of freedom
    (Student, "The Probable Error of a Mean", Biometrika 6, 1908; as in scipy.stats.t.interval). It takes the values to
    be normally distributed, and may reach beyond what a score can be.
    """
    figure = figure_of(values)
    if figure is None:
        return None
    count = len(figure.values)
    reach = float(stdtrit(count - 1, (1 + _CONFIDENCE) / 2)) * figure.standard_deviation / math.sqrt(count)
    return ReplicaScore(**figure.model_dump(), interval_95=(figure.mean - reach, figure.mean + reach))


def combine(epochs: Sequence[EpochMetrics]) -> EpochMetrics:
    """Return the epoch of the first replica with the figures of all beside it, and the times of all together.

    `epochs` are the same epoch of each replica, in the order of the seeds. An only one is returned as it is.
    """
    if len(epochs) == 1:
        return epochs[0]
    figures = {name: figure_of([getattr(epoch, name) for epoch in epochs]) for name in ReplicaEpoch.model_fields}
    return epochs[0].model_copy(
        update={
            "seconds": sum(epoch.seconds for epoch in epochs),
            "train_seconds": sum(epoch.train_seconds for epoch in epochs),
            "replicas": ReplicaEpoch.model_validate(figures),
        }
    )


def curves_of(history: Sequence[EpochMetrics]) -> ReplicaCurves:
    """Return the curves of combined epochs."""
    return ReplicaCurves.model_validate(
        {"epoch": [metrics.epoch for metrics in history]}
        | {name: _curve([getattr(metrics.replicas, name) for metrics in history]) for name in ReplicaEpoch.model_fields}
    )


def _curve(figures: Sequence[ReplicaFigure | None]) -> ReplicaCurve | None:
    there = [figure for figure in figures if figure is not None]
    if len(there) < len(figures):
        return None
    return ReplicaCurve(
        mean=[figure.mean for figure in there], standard_deviation=[figure.standard_deviation for figure in there]
    )
