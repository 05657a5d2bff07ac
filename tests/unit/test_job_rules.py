"""The statuses of a job: each move that is allowed, each that is not, and what a cancel or a lost worker does."""

import itertools
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import inspect

from models.errors import IllegalMove
from models.job import FINAL, LIVE, MOVES, Attempt, Job, Status, Transition

OWNER = UUID("01a1fc05-96f8-74b8-9c20-173cf1283400")
SPEC: dict[str, Any] = {"name": "a job", "resources": {"device": "auto"}, "training": {"epochs": 3}}

# Written out a second time: the table of moves is the contract of the service.
ALLOWED = {
    ("queued", "running"),
    ("queued", "cancelled"),
    ("running", "queued"),
    ("running", "pausing"),
    ("running", "cancelling"),
    ("running", "succeeded"),
    ("running", "failed"),
    ("pausing", "paused"),
    ("pausing", "cancelling"),
    ("pausing", "succeeded"),
    ("pausing", "failed"),
    ("pausing", "queued"),
    ("paused", "queued"),
    ("paused", "cancelled"),
    ("cancelling", "cancelled"),
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


def test_the_table_has_a_row_for_every_status_and_final_ones_move_nowhere() -> None:
    assert {(here, there) for here, allowed in MOVES.items() for there in allowed} == ALLOWED
    assert set(MOVES) == set(Status)
    assert {status for status in Status if not MOVES[status]} == FINAL == {"succeeded", "failed", "cancelled"}
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
    job = Job.submit(SPEC | {"resources": {"device": device}}, user_id=OWNER)
    assert (job.status, job.name, job.epochs, job.message) == ("queued", "a job", 3, message)
    assert story_of(job) == [(None, "queued")]
    assert transitions_of(job)[0].message == message


def test_an_attempt_has_the_next_number_and_a_lease() -> None:
    job = job_at(Status.QUEUED)
    for number in (1, 2):
        job.start_attempt("worker-1", lease_seconds=30)
        assert (job.status, job.attempt, job.message) == ("running", number, "Runs on worker-1.")
        assert job.lease_expires_at is not None
        assert transitions_of(job)[-1].attempt == number
        job.move(Status.QUEUED)
        assert job.lease_expires_at is None
    attempts: list[Attempt] = list(inspect(job).attrs.attempts.history.added or [])
    assert [(attempt.number, attempt.worker) for attempt in attempts] == [(1, "worker-1"), (2, "worker-1")]


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.QUEUED])
def test_an_attempt_at_a_job_that_is_not_queued_is_refused(status: Status) -> None:
    with pytest.raises(IllegalMove):
        job_at(status).start_attempt("worker-1", lease_seconds=30)


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
