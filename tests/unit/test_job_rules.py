"""The statuses of a job: each move that is allowed, each that is not, and what a cancel or a lost worker does."""

import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import inspect

from models.errors import IllegalMove
from models.job import FINAL, LIVE, MOVES, Job, Status, waits_for
from models.records import Transition
from models.spec import JobSpec

OWNER = UUID("01a1fc05-96f8-74b8-9c20-173cf1283400")
_ASKED = {"name": "a job", "dataset": {"name": "digits"}, "network": {"name": "mlp"}, "training": {"epochs": 3}}
SPEC: dict[str, Any] = JobSpec.model_validate(_ASKED).resolved().as_json()

# Written out a second time: the table of moves is the contract of the service.
ALLOWED = {
    ("queued", "running"),
    ("queued", "paused"),
    ("queued", "cancelled"),
    ("queued", "failed"),
    ("running", "queued"),
    ("running", "pausing"),
    ("running", "cancelling"),
    ("running", "succeeded"),
    ("running", "failed"),
    ("pausing", "paused"),
    ("pausing", "running"),
    ("pausing", "cancelling"),
    ("pausing", "succeeded"),
    ("pausing", "failed"),
    ("pausing", "queued"),
    ("paused", "queued"),
    ("paused", "cancelled"),
    ("paused", "failed"),
    ("cancelling", "cancelled"),
    ("failed", "queued"),
    ("cancelled", "queued"),
}


def job_at(status: Status, *, retries: int = 0) -> Job:
    """Return a job that no database knows, as it would be found in this status."""
    attempt = 0 if status is Status.QUEUED else 1
    return Job(id=None, status=status.value, spec=SPEC, epochs=3, attempt=attempt, retries=retries)


def transitions_of(job: Job) -> list[Transition]:
    return list(inspect(job).attrs.transitions.history.added or [])


def story_of(job: Job) -> list[tuple[str | None, str]]:
    return [(transition.from_status, transition.to_status) for transition in transitions_of(job)]


@pytest.mark.parametrize(("here", "there"), list(itertools.product(Status, Status)))
def test_a_job_moves_along_the_table_and_nowhere_else(here: Status, there: Status) -> None:
    job = job_at(here)
    job.lease_expires_at = lease = datetime.now(UTC)
    if (here, there) in ALLOWED:
        job.move(there, reason="because", message="It was so.")
        assert (job.status, job.reason, job.message) == (there.value, "because", "It was so.")
        (kept,) = transitions_of(job)
        assert (kept.from_status, kept.to_status, kept.attempt) == (here.value, there.value, job.attempt)
        assert (kept.reason, kept.message) == ("because", "It was so.")
        assert job.lease_expires_at is (lease if there in LIVE else None)
    else:
        with pytest.raises(IllegalMove, match=f"^A job that is {here} cannot become {there}\\.$"):
            job.move(there, reason="because")
        assert (job.status, job.reason, transitions_of(job)) == (here.value, None, [])
        assert job.lease_expires_at is lease


def test_the_table_has_a_row_for_every_status_and_success_alone_is_for_ever() -> None:
    assert {(here, there) for here, allowed in MOVES.items() for there in allowed} == ALLOWED
    assert set(MOVES) == set(Status)
    assert {status for status in Status if not MOVES[status]} == {"succeeded"}
    assert {"succeeded", "failed", "cancelled"} == FINAL
    assert {there for status in FINAL for there in MOVES[status]} == {"queued"}
    assert FINAL.isdisjoint(LIVE)


def test_a_reason_is_forgotten_with_the_next_move() -> None:
    job = job_at(Status.RUNNING)
    job.move(Status.QUEUED, reason="worker_lost", message="Its worker is gone.")
    job.move(Status.RUNNING)
    assert (job.reason, job.message) == (None, None)
    assert [transition.reason for transition in transitions_of(job)] == ["worker_lost", None]


@pytest.mark.parametrize(
    ("device", "message"), [("cuda", "Waits for a worker with a GPU."), ("cpu", "Waits for a worker.")]
)
def test_a_submitted_job_is_queued_and_says_what_it_waits_for(device: str, message: str) -> None:
    job = Job.submit(SPEC | {"resources": SPEC["resources"] | {"device": device}}, user_id=OWNER)
    assert (job.status, job.name, job.epochs, job.message) == ("queued", "a job", 3, message)
    assert story_of(job) == [(None, "queued")]
    assert transitions_of(job)[0].message == message


@pytest.mark.parametrize(
    ("status", "after"),
    [
        (Status.QUEUED, Status.CANCELLED),
        (Status.PAUSED, Status.CANCELLED),
        (Status.RUNNING, Status.CANCELLING),
        (Status.PAUSING, Status.CANCELLING),
    ],
)
def test_a_cancel_ends_a_waiting_job_at_once_and_asks_a_running_one_to_stop(status: Status, after: Status) -> None:
    job = job_at(status)
    assert job.cancel() is True
    assert (job.status, job.reason) == (after.value, "cancelled_by_user")
    assert job.message
    assert job.cancel() is False, "a second cancel changes nothing"
    assert story_of(job) == [(status.value, after.value)]


@pytest.mark.parametrize("status", [Status.CANCELLING, *sorted(FINAL)])
def test_a_cancel_of_a_job_that_ends_or_has_ended_changes_nothing(status: Status) -> None:
    job = job_at(status)
    assert job.cancel() is False
    assert (job.status, transitions_of(job)) == (status.value, [])


def test_every_status_is_covered_by_a_test_of_cancel() -> None:
    assert {Status.QUEUED, Status.PAUSED, Status.RUNNING, Status.PAUSING, Status.CANCELLING} | FINAL == set(Status)


def refused(job: Job, asked: str, act: Callable[[], None]) -> None:
    """Require that the move is refused with the status named, and changes nothing."""
    before = job.status
    with pytest.raises(IllegalMove, match=f"^A job that is {before} cannot be {asked}\\.$"):
        act()
    assert (job.status, transitions_of(job)) == (before, [])


@pytest.mark.parametrize("status", Status)
def test_a_pause_stops_what_runs_and_keeps_what_waits_from_starting(status: Status) -> None:
    job, after = job_at(status), {Status.QUEUED: "paused", Status.RUNNING: "pausing"}.get(status)
    if after is None:
        refused(job, "paused", job.pause)
    else:
        job.pause()
        assert (job.status, job.reason) == (after, "paused_by_user")


@pytest.mark.parametrize("status", Status)
def test_a_resume_queues_what_is_paused_and_takes_back_a_pause_on_its_way(status: Status) -> None:
    job, after = job_at(status), {Status.PAUSED: "queued", Status.PAUSING: "running"}.get(status)
    if after is None:
        refused(job, "resumed", job.resume)
    else:
        job.resume([])
        assert (job.status, job.reason) == (after, None)


@pytest.mark.parametrize("from_start", [False, True])
@pytest.mark.parametrize("status", Status)
def test_a_retry_starts_the_clock_and_the_losses_anew(status: Status, from_start: bool) -> None:
    job = job_at(status, retries=3)
    job.attempt, job.trained_since, job.timed_since = 4, 2, 2
    if status not in (Status.FAILED, Status.CANCELLED):
        refused(job, "tried again", lambda: job.retry(from_start=from_start))
        assert (job.retries, job.trained_since, job.timed_since) == (3, 2, 2)
        return
    job.retry([OWNER], from_start=from_start)
    assert (job.status, job.reason, job.message) == ("queued", None, f"Waits for job {OWNER}.")
    assert (job.retries, job.timed_since, job.unmet) == (0, 5, 1)
    assert job.trained_since == (5 if from_start else 2)


def test_what_a_job_waits_for_is_said() -> None:
    other = UUID(int=7)
    assert waits_for(SPEC) == "Waits for a worker."
    assert waits_for(SPEC, [OWNER]) == f"Waits for job {OWNER}."
    assert waits_for(SPEC, [OWNER, other, other]) == f"Waits for job {OWNER} and 2 more."
    assert Job.submit(SPEC, user_id=OWNER, unmet=[OWNER, other]).unmet == 2


@pytest.mark.parametrize(
    ("status", "after", "reason"),
    [(Status.RUNNING, "queued", "preempted"), (Status.PAUSING, "paused", "paused_by_user")],
)
def test_a_job_that_was_asked_to_stop_at_a_checkpoint_has_lost_nothing(status: Status, after: str, reason: str) -> None:
    job = job_at(status, retries=2)
    job.yields_to = OWNER
    job.stop_at_checkpoint("Somebody was first.")
    assert (job.status, job.reason, job.retries) == (after, reason, 2)
    assert not job.yields_to


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_a_lost_attempt_goes_back_to_the_queue_until_its_retries_are_used_up(retries: int) -> None:
    job = job_at(Status.RUNNING, retries=retries)
    job.lose_attempt("worker_lost", "The worker is gone.", retry_limit=3)
    assert (job.status, job.reason, job.retries) == ("queued", "worker_lost", retries + 1)
    assert job.message == "The worker is gone. Goes on from the last checkpoint."


@pytest.mark.parametrize(("retries", "limit"), [(3, 3), (4, 3), (0, 0)])
def test_a_lost_attempt_beyond_the_limit_fails_the_job(retries: int, limit: int) -> None:
    job = job_at(Status.RUNNING, retries=retries)
    job.lose_attempt("worker_lost", "The worker is gone.", retry_limit=limit)
    assert (job.status, job.reason, job.retries) == ("failed", "worker_lost", retries)
    assert job.message == f"The worker is gone. Not tried again after {retries} retries."


@pytest.mark.parametrize(
    ("status", "after", "reason"),
    [(Status.CANCELLING, "cancelled", "cancelled_by_user"), (Status.PAUSING, "paused", "worker_lost")],
)
@pytest.mark.parametrize("retries", [0, 3])
def test_a_worker_lost_while_its_job_was_to_stop_leaves_it_stopped(
    status: Status, after: str, reason: str, retries: int
) -> None:
    job = job_at(status, retries=retries)
    job.lose_attempt("worker_lost", "The worker is gone.", retry_limit=3)
    assert (job.status, job.reason, job.retries) == (after, reason, retries)
    assert story_of(job) == [(status.value, after)]


@pytest.mark.parametrize("status", sorted(set(Status) - LIVE))
def test_a_job_without_a_live_attempt_cannot_lose_one(status: Status) -> None:
    job = job_at(status)
    with pytest.raises(IllegalMove):
        job.lose_attempt("worker_lost", "The worker is gone.", retry_limit=3)
    assert (job.status, job.retries) == (status.value, 0)
