"""The figures for Prometheus: every series that can rise is there from the beginning, and there are never too many."""

from collections.abc import Iterator, Sequence
from math import isnan
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from api.monitoring.figures import Figures
from api.monitoring.queries import Happening, Standing
from models.job import FINAL
from models.reasons import FAILURES

QUEUES = 900


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def figures(registry: CollectorRegistry) -> Figures:
    return Figures(registry)


def samples(registry: CollectorRegistry, name: str) -> dict[tuple[str, ...], float]:
    """Return the values of a metric by those of its labels, in the order of their names."""
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == name
    }


def happening(number: int, **changes: Any) -> Happening:
    nothing: dict[str, Any] = {"before": None, "to": None, "reason": None, "waited": None, "step": None, "data": {}}
    return Happening(id=number, **(nothing | changes))


def standing(jobs: Sequence[tuple[str, str, int]], oldest: Sequence[tuple[str, float]]) -> Standing:
    return Standing(jobs=jobs, oldest=oldest, workers={}, lost=0)


def ends() -> Iterator[dict[str, str | None]]:
    yield {"before": "running", "to": "succeeded", "reason": None}
    yield {"before": "cancelling", "to": "cancelled", "reason": "cancelled_by_user"}
    yield {"before": "cancelling", "to": "cancelled", "reason": "stopped_by_sweep"}
    for reason in (*FAILURES, "dependency_failed"):
        yield {"before": "running", "to": "failed", "reason": reason}


def test_nothing_that_happens_adds_a_series(registry: CollectorRegistry, figures: Figures) -> None:
    counters = ("trainyard_jobs_submitted_total", "trainyard_jobs_finished_total", "trainyard_retries_total")
    before = [samples(registry, name) for name in counters]
    moves: list[dict[str, Any]] = [*ends(), {"before": None, "to": "queued"}]
    moves += [{"before": "running", "to": "queued", "reason": reason} for reason in (*FAILURES, "preempted")]
    figures.count(happening(n, **move) for n, move in enumerate(moves))
    after = [samples(registry, name) for name in counters]
    assert [one.keys() for one in before] == [one.keys() for one in after]
    assert {value for one in before for value in one.values()} == {0}
    assert {value for one in after for value in one.values()} == {1}, "each of them can rise"
    assert {status for _, status in after[1]} == set(FINAL)


@pytest.mark.parametrize(
    "told",
    [
        [{"before": "running", "to": "queued", "reason": "worker_lost"}],
        [{"step": "lease_lost"}, {"before": "running", "to": "failed", "reason": "worker_lost"}],
        [{"step": "lease_lost"}, {"before": "pausing", "to": "paused", "reason": "worker_lost"}],
        [{"step": "lease_lost"}, {"before": "cancelling", "to": "cancelled", "reason": "cancelled_by_user"}],
    ],
)
def test_a_lost_worker_is_counted_once_wherever_its_job_went(
    registry: CollectorRegistry, figures: Figures, told: list[dict[str, Any]]
) -> None:
    figures.count(happening(n, **one) for n, one in enumerate(told))
    assert samples(registry, "trainyard_lease_losses_total") == {(): 1}


def test_nobody_is_said_to_be_lost_while_the_database_does_not_answer(
    registry: CollectorRegistry, figures: Figures
) -> None:
    figures.show(Standing(jobs=[], oldest=[], workers={}, lost=1))
    assert samples(registry, "trainyard_workers_lost") == {(): 1}
    figures.show_away()
    assert isnan(samples(registry, "trainyard_workers_lost")[()])


def test_of_many_queues_the_largest_are_shown_and_the_others_as_one(
    registry: CollectorRegistry, figures: Figures
) -> None:
    jobs = [(f"queue-{n:03}", "queued", n) for n in range(1, QUEUES + 1)]
    jobs.append(("queue-001", "running", 2 * QUEUES))
    figures.show(standing(jobs, [(f"queue-{n:03}", float(QUEUES - n)) for n in range(1, QUEUES + 1)]))
    shown = samples(registry, "trainyard_jobs")
    assert len({queue for queue, _ in shown}) == 51
    assert shown["queue-001", "running"] == 2 * QUEUES
    assert shown["queue-900", "queued"] == QUEUES
    others = QUEUES - 49  # queue-001 has the most
    assert shown["(others)", "queued"] == sum(range(2, others + 1))
    assert ("queue-002", "queued") not in shown
    oldest = samples(registry, "trainyard_queue_oldest_wait_seconds")
    assert len(oldest) == 51
    assert oldest["(others)",] == QUEUES - 2, "the longest wait of them"
    figures.show(standing([("one", "queued", 1)], [("one", 1.0)]))
    assert samples(registry, "trainyard_jobs") == {("one", "queued"): 1}, "queues without jobs are not kept"
    assert samples(registry, "trainyard_queue_oldest_wait_seconds") == {("one",): 1.0}
