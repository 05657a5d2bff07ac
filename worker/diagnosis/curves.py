"""A figure by epoch, and what can be told of it under noise: its levels, its noise, its trend, its jumps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

SHORT_CURVE = 5  # points; below it a median of three would hide the shape instead of the noise
_WIDEST_WINDOW = 25  # points; a median of more is not noticeably steadier, and the end of a run would be its middle
_TREND_POINTS = 100  # at most: the trend compares each point with each
_NOISE_LEVELS = 3.0  # standard deviations that a rise must exceed, the usual three sigma
_TREND_SCORE = 1.5  # Mann-Kendall; three or four points reach it only if each is below the one before
JUMP_FACTOR = 1.25  # times the value before; mini-batch noise moves an epoch's mean by a few per cent


@dataclass(frozen=True)
class Curve:
    """Values by epoch in the order of epochs, which need not follow each other without gaps."""

    epochs: tuple[int, ...]
    values: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def window(self) -> int:
        """How many points at the end are its end: a tenth of the curve, one where it is short."""
        return 1 if len(self) < SHORT_CURVE else min(_WIDEST_WINDOW, max(3, len(self) // 10))

    @property
    def end(self) -> float:
        """The level at the end, free of single outliers."""
        return median(self.values[-self.window :])

    @property
    def best(self) -> float:
        """The lowest level, free of single outliers."""
        return min(self.levels(self._smallest_window))

    @property
    def lowest(self) -> int:
        """The index of the lowest single value, the earliest of equals."""
        return self.values.index(min(self.values))

    @property
    def gain(self) -> float:
        """How far it has fallen at most, from its first value."""
        return self.values[0] - min(self.values)

    @property
    def noise(self) -> float:
        """The standard deviation about a smooth course, from second differences.

        Robust form of Gasser, Sroka and Jennen-Steinmetz (1986): white noise makes these 6 ** 0.5 as wide as itself.
        """
        before, here, after = self.values, self.values[1:], self.values[2:]
        bends = [abs(a - 2 * b + c) for a, b, c in zip(before, here, after, strict=False)]
        return median(bends) / (0.6745 * math.sqrt(6)) if bends else 0.0

    def levels(self, width: int) -> list[float]:
        """Return the medians of each `width` points in a row, fewer points being one level."""
        width = min(width, len(self))
        return [median(self.values[start : start + width]) for start in range(len(self) - width + 1)]

    def ends_above_its_best(self, at_least: float) -> bool:
        """Tell whether the end lies above the best level, by `at_least` and by more than may be noise."""
        rise = self.end - self.best
        return rise >= at_least and rise > _NOISE_LEVELS * self.noise

    def stays_above(self, bound: float) -> int:
        """Return the epoch in the middle of the first window after which no level is below the bound."""
        levels = self.levels(self.window)
        below = [index for index, level in enumerate(levels) if level < bound]
        first = min(below[-1] + 1, len(levels) - 1) if below else 0
        return self.epochs[first + self.window // 2]

    def fall_at_the_end(self) -> tuple[int, float]:
        """Return the epoch from which its last quarter goes, and how far it falls there.

        The fall is along the Theil-Sen line; 0 where it may be noise, and where the end is not the lowest level so far.
        """
        start = len(self) - max(3, math.ceil(len(self) / 4))
        if start < 0 or not self._ends_lowest():
            return self.epochs[0] if self.epochs else 0, 0.0
        step = math.ceil((len(self) - start) / _TREND_POINTS)
        epochs, values = self.epochs[start::step], self.values[start::step]
        slopes = [
            (values[later] - values[earlier]) / (epochs[later] - epochs[earlier])
            for later in range(len(values))
            for earlier in range(later)
        ]
        if _mann_kendall(slopes, len(values)) > -_TREND_SCORE:
            return epochs[0], 0.0
        return epochs[0], max(0.0, -median(slopes) * (self.epochs[-1] - epochs[0]))

    def jumps(self, at_least: float) -> list[int]:
        """Return the indices of points above `JUMP_FACTOR` times the one before, by `at_least`, that soon came back.

        Back is half of the way within three points; a step up that stays is a rise, no oscillation.
        """
        found = []
        for index in range(1, len(self)):
            before, here = self.values[index - 1], self.values[index]
            soon = self.values[index + 1 : index + 4]
            jumped = here > JUMP_FACTOR * before and here - before >= at_least
            if jumped and soon and min(soon) < (before + here) / 2:
                found.append(index)
        return found

    @property
    def _smallest_window(self) -> int:
        return min(3, self.window)

    def _ends_lowest(self) -> bool:
        levels = self.levels(self.window)
        return all(self.end < level for level in levels[-1 - self.window :: -self.window])


def _mann_kendall(slopes: Sequence[float], points: int) -> float:
    """Return the Mann-Kendall score of a trend from all pairwise slopes: below 0 where it falls."""
    balance = sum((slope > 0) - (slope < 0) for slope in slopes)
    return balance / math.sqrt(points * (points - 1) * (2 * points + 5) / 18)
