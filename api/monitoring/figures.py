"""The figures of the lab's jobs and workers, as Prometheus reads them."""

from collections import Counter as Tally
from collections.abc import Iterable, Sequence
from math import nan

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from api.monitoring.queries import Happening, Standing
from models.job import FINAL, LIVE, Status
from models.milestone import Step
from models.reasons import CANCELLED_BY_USER, DEPENDENCY_FAILED, FAILURES, PREEMPTED, STOPPED_BY_SWEEP, WORKER_LOST
from models.worker import WorkerState

# From a job that starts at once to one that waits for a week.
_WAIT_BUCKETS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3_600, 14_400, 43_200, 86_400, 259_200, 604_800)
# From an epoch of digits to one of ImageNet on one GPU.
_EPOCH_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3_600, 14_400)
_CLAIM_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_MOST_QUEUES = 50  # a job may name any queue: those with the most jobs are shown, the others as one
_OTHERS = "(others)"  # no queue can be called so
# Every way to end, and to wait again. Each is told from the beginning, as 0: Prometheus takes a series that comes into
# being for one that has not risen.
_ENDS = (
    (Status.SUCCEEDED, ""),
    *((Status.FAILED, reason) for reason in (*FAILURES, DEPENDENCY_FAILED)),
    *((Status.CANCELLED, reason) for reason in (CANCELLED_BY_USER, STOPPED_BY_SWEEP)),
)
_RETRIED = (*FAILURES, PREEMPTED)


class Figures:
    """Gauges of what is now, and counters of what has happened since this process began to look."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register everything; nothing is known yet."""

        def gauge(name: str, meaning: str, *labels: str) -> Gauge:
            return Gauge(name, meaning, labels, registry=registry)

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(name, meaning, labels, registry=registry)

        def histogram(name: str, meaning: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(name, meaning, buckets=buckets, registry=registry)

        self._database_up = gauge("trainyard_database_up", "Whether the database answered when it was asked last.")
        self._jobs = gauge("trainyard_jobs", "Jobs that have not ended.", "queue", "status")
        self._oldest = gauge(
            "trainyard_queue_oldest_wait_seconds",
            "For how long the oldest job has waited that waits for a worker alone, in a queue that is not paused.",
            "queue",
        )
        self._workers = gauge("trainyard_workers", "Workers; an offline one stopped, or is not heard of.", "state")
        self._lost = gauge("trainyard_workers_lost", "Workers that fell silent within a day, and that nobody stopped.")
        self._slots = gauge("trainyard_slots", "Slots of the workers in this state.", "state")
        self._submitted = counter("trainyard_jobs_submitted", "Jobs that were stored.")
        self._finished = counter("trainyard_jobs_finished", "Jobs that ended.", "status", "reason")
        self._retries = counter("trainyard_retries", "Jobs that wait again without a person's wish.", "reason")
        self._losses = counter("trainyard_lease_losses", "Attempts whose worker was lost.")
        self._wait = histogram("trainyard_job_wait_seconds", "Seconds that a job waited for a worker.", _WAIT_BUCKETS)
        for status, reason in _ENDS:
            self._finished.labels(status.value, reason)
        for reason in _RETRIED:
            self._retries.labels(reason)
        self._claim = histogram("trainyard_claim_seconds", "Seconds that the claim of a job took.", _CLAIM_BUCKETS)
        self._epoch = histogram("trainyard_epoch_seconds", "Seconds of an epoch, validation included.", _EPOCH_BUCKETS)

    def show(self, standing: Standing) -> None:
        """Show how things stand now."""
        self._forget()
        self._database_up.set(1)
        shown = _largest(standing.jobs)
        for queue, status, count in standing.jobs:
            self._jobs.labels(queue if queue in shown else _OTHERS, status).inc(count)
        for queue, seconds in sorted(standing.oldest, key=lambda one: one[1]):  # of the others, the oldest is the last
            self._oldest.labels(queue if queue in shown else _OTHERS).set(seconds)
        self._lost.set(standing.lost)
        for state in WorkerState:
            workers, slots = standing.workers.get(state, (0, 0))
            self._workers.labels(state.value).set(workers)
            self._slots.labels(state.value).set(slots)

    def show_away(self) -> None:
        """Show that the database does not answer, and nothing old in its place."""
        self._forget()
        self._lost.set(nan)
        self._database_up.set(0)

    def count(self, happenings: Iterable[Happening]) -> None:
        """Count what has happened; each of it is to be given once."""
        for one in happenings:
            if one.step is None:
                self._count_move(one)
            elif one.step == Step.EPOCH:
                self._epoch.observe(one.data["seconds"])
            elif one.step == Step.LEASE_LOST:
                self._losses.inc()
            elif one.step == Step.STARTED:
                self._claim.observe(one.data["claim_seconds"])

    def _count_move(self, move: Happening) -> None:
        reason = move.reason or ""
        if move.before is None:
            self._submitted.inc()
        if move.to in FINAL:
            self._finished.labels(move.to, reason).inc()
        if move.to == Status.RUNNING and move.before == Status.QUEUED and move.waited is not None:
            self._wait.observe(move.waited)
        if move.to == Status.QUEUED and move.before in LIVE:
            self._retries.labels(reason).inc()
            if reason == WORKER_LOST:  # where it leads elsewhere, there is a milestone beside the move
                self._losses.inc()

    def _forget(self) -> None:
        for gauge in (self._jobs, self._oldest, self._workers, self._slots):
            gauge.clear()


def _largest(jobs: Iterable[tuple[str, str, int]]) -> set[str]:
    """Return the queues with the most jobs, of equal ones those that come first by their names."""
    tally: Tally[str] = Tally()
    for queue, _, count in sorted(jobs):
        tally[queue] += count
    return {queue for queue, _ in tally.most_common(_MOST_QUEUES)}
