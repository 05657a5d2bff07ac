"""Whether two networks differ in accuracy on the same test samples, or one of them was only luckier."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

LEVEL = 0.05  # below it a difference is called significant; the convention since Fisher, 1925
_EXACT_BELOW = 25  # discordant samples; Edwards' correction is good enough from there on


@dataclass(frozen=True)
class McNemar:
    """The outcome of the test; the exact one has no statistic but the counts themselves."""

    test: Literal["exact_binomial", "chi_squared"]
    statistic: float | None
    p_value: float


def mcnemar(only_first: int, only_second: int) -> McNemar:
    """Test, two-sided, whether two classifiers err equally often on the same samples.

    The counts are of the samples that only one of them has right (McNemar, "Note on the sampling error of the
    difference between correlated proportions or percentages", Psychometrika 12, 1947); recommended for classifiers
    that were trained once by Dietterich, "Approximate statistical tests", Neural Computation 10, 1998. With fewer than
    25 of them the binomial probability is exact; else it is chi-squared with one degree of freedom and the continuity
    correction of Edwards, Psychometrika 13, 1948.
    """
    discordant = only_first + only_second
    if discordant < _EXACT_BELOW:
        tail = sum(math.comb(discordant, hits) for hits in range(min(only_first, only_second) + 1))
        return McNemar("exact_binomial", None, min(1.0, 2 * tail / 2**discordant))
    # Equal counts are no difference that a correction could make smaller.
    statistic = max(0, abs(only_first - only_second) - 1) ** 2 / discordant
    return McNemar("chi_squared", statistic, math.erfc(math.sqrt(statistic / 2)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values adjusted for their number, in their order.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979; the
    probability of a single wrong rejection among all stays below the level.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
