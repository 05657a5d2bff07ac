"""Which running jobs of a sweep are given up: rules over curves, without a database."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import accumulate
from statistics import median

from models.sweep_spec import AshaRule, MedianRule, SweepSpec


@dataclass(frozen=True)
class Curve:
    """The objective of one job: its finite values by trained epoch, in order, and when each was recorded."""

    values: Mapping[int, float]
    recorded: Mapping[int, datetime]

    @property
    def last_epoch(self) -> int:
        """The newest epoch; 0 before the first."""
        return max(self.values, default=0)

    def mean_until(self, epoch: int) -> float | None:
        """Return the mean of the values up to an epoch, itself included; None where there is none yet."""
        epochs, sums = self._sums
        count = bisect_right(epochs, epoch)
        return sums[count - 1] / count if count else None

    @cached_property
    def _sums(self) -> tuple[list[int], list[float]]:
        # Each curve is compared with every running job.
        return list(self.values), list(accumulate(self.values.values()))


def why_it_stops(
    sweep: SweepSpec, curve: Curve, *, epochs: int, finished: Sequence[Curve], others: Sequence[Curve]
) -> str | None:
    """Say by the sweep's rule why a running job of `epochs` epochs is stopped, or return None where it goes on.

    `finished` are the curves of the jobs that have succeeded, `others` those of all jobs but this one.
    """
    match sweep.early_stop:
        case MedianRule() as rule:
            return worse_than_median(rule, curve, finished, objective=sweep.objective, maximizes=sweep.maximizes)
        case AshaRule() as rule:
            return fails_a_rung(
                rule, curve, others, epochs=epochs, objective=sweep.objective, maximizes=sweep.maximizes
            )
        case None:
            return None


def worse_than_median(
    rule: MedianRule, curve: Curve, finished: Sequence[Curve], *, objective: str, maximizes: bool
) -> str | None:
    """Say why a running job is stopped, or return None where it goes on.

    The median stopping rule of Google Vizier (Golovin et al. 2017, section 3.2.1): a job is stopped at epoch s if its
    best value by then is strictly worse than the median, over the jobs that have finished, of the mean of the values
    that each had reported up to s. `finished` are the curves of the jobs that succeeded.
    """
    epoch = curve.last_epoch
    means = [mean for mean in (other.mean_until(epoch) for other in finished) if mean is not None]
    if epoch < rule.min_epochs or len(means) < rule.min_jobs:
        return None
    best, bar = (max if maximizes else min)(curve.values.values()), median(means)
    if not _is_worse(best, bar, maximizes=maximizes):
        return None
    return (
        f"Stopped by its sweep at epoch {epoch}: its best {objective} so far, {best:.6g}, is worse than {bar:.6g}, "
        f"the median of what {len(means)} finished jobs had on average by that epoch."
    )


def fails_a_rung(
    rule: AshaRule, curve: Curve, others: Sequence[Curve], *, epochs: int, objective: str, maximizes: bool
) -> str | None:
    """Say why a running job is stopped, or return None where it goes on.

    Asynchronous successive halving (ASHA, Li et al. 2020) in its stopping variant: rungs are at r, r * eta, r * eta^2
    epochs, below the `epochs` of the job. A job that is the nth to reach a rung passes it if its value there is among
    the best floor(n / eta) of these n; while n is less than eta it passes, since nothing can be said yet. Only who
    came before counts, by the time of recording, so that the answer does not depend on when it is asked for. `others`
    are the curves of all other jobs of the sweep, however they ended.
    """
    for rung in _rungs(rule, epochs):
        if rung not in curve.values:
            continue
        value = curve.values[rung]
        earlier = [other.values[rung] for other in others if _came_before(other, curve, rung)]
        reached = len(earlier) + 1
        place = 1 + sum(_is_worse(value, rival, maximizes=maximizes) for rival in earlier)
        passing = reached // rule.reduction_factor
        if 0 < passing < place:
            return (
                f"Stopped by its sweep at epoch {curve.last_epoch}: with a {objective} of {value:.6g} at epoch {rung} "
                f"it was number {place} of the {reached} jobs that had come so far, of which the best {passing} go on."
            )
    return None


def _rungs(rule: AshaRule, epochs: int) -> Iterator[int]:
    rung = rule.min_epochs
    while rung < epochs:
        yield rung
        rung *= rule.reduction_factor


def _came_before(other: Curve, curve: Curve, rung: int) -> bool:
    return rung in other.values and other.recorded[rung] < curve.recorded[rung]


def _is_worse(value: float, than: float, *, maximizes: bool) -> bool:
    return value < than if maximizes else value > than
