"""Which running job of a sweep is given up: the median rule and ASHA on curves written by hand, with near-misses."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from models.sweep_spec import AshaRule, MedianRule, SweepSpec
from worker.sweeps.stopping import Curve, fails_a_rung, why_it_stops, worse_than_median

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def curve(*values: float, first: int = 0) -> Curve:
    """Return a curve from epoch 1 on, its first epoch recorded `first` seconds after noon, one a minute after that."""
    epochs = dict(enumerate(values, start=1))
    return Curve(epochs, {epoch: NOON + timedelta(minutes=epoch, seconds=first) for epoch in epochs})


def median(own: Curve, *finished: Curve, maximizes: bool = True, **rule: int) -> str | None:
    chosen = MedianRule.model_validate({"min_epochs": 2, "min_jobs": 3} | rule)
    return worse_than_median(chosen, own, finished, objective="validation_accuracy", maximizes=maximizes)


# At epoch 2 these had 0.3, 0.5 and 0.7 on average: the median is 0.5.
LOW, MIDDLE, HIGH = curve(0.2, 0.4, 0.9), curve(0.4, 0.6, 0.9), curve(0.6, 0.8, 0.9)


@pytest.mark.parametrize(
    ("own", "stops"),
    [
        (curve(0.1, 0.49), True),
        (curve(0.1, 0.5), False),  # as good as the median is not worse
        (curve(0.51, 0.1), False),  # its best so far counts, not its last
        (curve(0.1), False),  # before min_epochs
        (curve(), False),
    ],
)
def test_a_job_whose_best_is_below_the_median_of_the_means_is_stopped(own: Curve, stops: bool) -> None:
    assert (median(own, LOW, MIDDLE, HIGH) is not None) is stops


def test_what_finished_jobs_reached_later_does_not_count() -> None:
    # Over all their epochs the means are 0.5, 0.63 and 0.77: 0.55 would lose against these.
    assert median(curve(0.1, 0.55), LOW, MIDDLE, HIGH) is None


def test_a_finished_job_that_stopped_by_itself_counts_with_what_it_has() -> None:
    assert median(curve(0.1, 0.1, 0.1, 0.61), curve(0.6), curve(0.7), curve(0.5)) is None
    assert median(curve(0.1, 0.1, 0.1, 0.59), curve(0.6), curve(0.7), curve(0.5)) is not None


def test_too_few_finished_jobs_stop_nobody() -> None:
    assert median(curve(0.0, 0.0), MIDDLE, HIGH) is None
    assert median(curve(0.0, 0.0), MIDDLE, HIGH, curve()) is None, "one without values is no job to compare with"
    assert median(curve(0.0, 0.0), MIDDLE, HIGH, min_jobs=2) is not None


def test_an_even_number_of_jobs_has_the_mean_of_the_two_in_the_middle_as_median() -> None:
    assert median(curve(0.1, 0.41), LOW, MIDDLE, min_jobs=2) is None
    assert median(curve(0.1, 0.39), LOW, MIDDLE, min_jobs=2) is not None


def test_a_loss_is_worse_where_it_is_larger() -> None:
    assert median(curve(0.9, 0.51), LOW, MIDDLE, HIGH, maximizes=False) is not None
    assert median(curve(0.9, 0.5), LOW, MIDDLE, HIGH, maximizes=False) is None
    assert median(curve(0.4, 0.9), LOW, MIDDLE, HIGH, maximizes=False) is None


def test_the_median_rule_says_against_what_the_job_lost() -> None:
    assert median(curve(0.1, 0.25), LOW, MIDDLE, HIGH) == (
        "Stopped by its sweep at epoch 2: its best validation_accuracy so far, 0.25, is worse than 0.5, the median of "
        "what 3 finished jobs had on average by that epoch."
    )


def asha(own: Curve, *others: Curve, maximizes: bool = True, epochs: int = 100, **rule: int) -> str | None:
    chosen = AshaRule.model_validate({"min_epochs": 1, "reduction_factor": 3} | rule)
    return fails_a_rung(chosen, own, others, epochs=epochs, objective="validation_loss", maximizes=maximizes)


@pytest.mark.parametrize(
    ("value", "earlier", "stops"),
    [
        (0.1, [], False),
        (0.1, [0.5], False),  # of two nobody can be said to be in the best third
        (0.1, [0.5, 0.6], True),  # third of three, of which one goes on
        (0.61, [0.5, 0.6], False),
        (0.6, [0.5, 0.6], False),  # as good as the best
        (0.55, [0.5, 0.6], True),
        (0.55, [0.5, 0.6, 0.7, 0.8], True),  # of five one goes on
        (0.75, [0.5, 0.6, 0.7, 0.8, 0.4], False),  # of six two
        (0.65, [0.5, 0.6, 0.7, 0.8, 0.4], True),
    ],
)
def test_the_nth_job_at_a_rung_passes_among_the_best_third_of_these_n(
    value: float, earlier: list[float], stops: bool
) -> None:
    others = [curve(rival) for rival in earlier]
    assert (asha(curve(value, first=1), *others) is not None) is stops


def test_who_comes_to_a_rung_later_stops_nobody_who_has_passed_it() -> None:
    own = curve(0.1, 0.1)
    assert asha(own, *[curve(0.9, first=1) for _ in range(10)]) is None
    assert asha(own, *[curve(0.9, first=-1) for _ in range(10)]) is not None


def test_rungs_grow_by_the_factor_and_lie_below_the_last_epoch() -> None:
    rivals = [curve(*[0.0] * 8, 0.9) for _ in range(2)]
    own = curve(*[0.1] * 9, first=1)
    assert asha(own, *rivals, epochs=10) is not None, "the rungs are 1, 3 and 9"
    assert asha(own, *rivals, epochs=9) is None, "at its last epoch a job has nothing left to save"
    assert asha(own, *rivals, epochs=10, min_epochs=2) is None, "the rungs are 2 and 6"
    assert asha(own, *rivals, epochs=10, min_epochs=9) is not None
    assert asha(curve(*[0.1] * 8, first=1), *rivals, epochs=10) is None, "it has not come to the third rung"


def test_a_job_that_was_stopped_at_a_rung_counts_among_those_that_came_to_it() -> None:
    stopped = [curve(0.5), curve(0.4)]
    assert asha(curve(0.3, first=1), *stopped) is not None


def test_at_a_rung_a_smaller_loss_is_better() -> None:
    assert asha(curve(0.7, first=1), curve(0.5), curve(0.6), maximizes=False) is not None
    assert asha(curve(0.4, first=1), curve(0.5), curve(0.6), maximizes=False) is None


def test_asha_says_against_what_the_job_lost() -> None:
    assert asha(curve(0.2, 0.7, first=1), curve(0.5), curve(0.6)) == (
        "Stopped by its sweep at epoch 2: with a validation_loss of 0.2 at epoch 1 it was number 3 of the 3 jobs that "
        "had come so far, of which the best 1 go on."
    )


@pytest.mark.parametrize(
    ("early_stop", "stops"),
    [
        (None, False),
        ({"kind": "median", "min_epochs": 1, "min_jobs": 3}, True),
        ({"kind": "median", "min_epochs": 2, "min_jobs": 3}, False),
        ({"kind": "asha", "min_epochs": 1, "reduction_factor": 4}, True),
        ({"kind": "asha", "min_epochs": 1, "reduction_factor": 5}, False),
    ],
)
def test_the_rule_of_the_sweep_is_the_one_that_decides(early_stop: dict[str, Any] | None, stops: bool) -> None:
    sweep = SweepSpec.model_validate(
        {
            "spec": {},
            "parameters": {"kind": "grid", "values": {"training.epochs": [9]}},
            "objective": "validation_accuracy",
            "early_stop": early_stop,
        }
    )
    rivals = [curve(0.5), curve(0.6), curve(0.7)]
    assert (why_it_stops(sweep, curve(0.1, first=1), epochs=9, finished=rivals, others=rivals) is not None) is stops
