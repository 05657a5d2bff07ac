"""Figures of one spec over several seeds: means, sample standard deviations and confidence intervals."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from models.replicas import ReplicaFigure, ReplicaScore

_CONFIDENCE = 0.95
_HALVINGS = 64  # of an interval of 1.6: beyond the precision of a float


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
    reach = _two_sided_t(_CONFIDENCE, count - 1) * figure.standard_deviation / math.sqrt(count)
    return ReplicaScore(**figure.model_dump(), interval_95=(figure.mean - reach, figure.mean + reach))


def _two_sided_t(confidence: float, degrees: int) -> float:
    """Return the t that Student's distribution of `degrees` of freedom stays within, on both sides, so confidently.

    `degrees` is 1 or more; the probability is inverted by halving, over the angle whose tangent is t / sqrt(degrees).
    """
    low, high = 0.0, math.pi / 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _within(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
    return math.tan(low) * math.sqrt(degrees)


def _within(angle: float, degrees: int) -> float:
    """Return P(|T| <= t) by the finite sums of Abramowitz and Stegun, 1964, formulas 26.7.3 and 26.7.4."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = term if degrees > 1 else 0.0
    for power in range(2 + odd, degrees - 1, 2):
        term *= cosine * cosine * (power - 1) / power
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
