"""Processes killed in the middle of a job: it succeeds, every epoch is recorded once, with the same numbers."""

import os
import signal
import time
from itertools import pairwise
from typing import Any

import psutil
import pytest

SPEC = {
    "dataset": {"name": "digits"},
    "network": {"name": "mlp", "hidden": [64], "dropout": 0.2},
    "training": {"epochs": 150, "seed": 11, "optimizer": {"name": "sgd", "learning_rate": 0.01, "momentum": 0.9}},
}
LEASE_SECONDS = 5
FIGURES = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")


@pytest.fixture(scope="module")
def stack(start_service: Any) -> Any:
    """One stack whose leases run out soon; what a test kills it starts again."""
    return start_service(lease_seconds=LEASE_SECONDS, beat_seconds=0.5, poll_seconds=0.5, sweep_seconds=0.5)


@pytest.fixture(scope="module")
def undisturbed(stack: Any) -> list[dict[str, Any]]:
    """The epochs of a job that nobody disturbs."""
    job_id = stack.submit(SPEC)
    assert stack.wait_for_end(job_id)["status"] == "succeeded"
    epochs: list[dict[str, Any]] = stack.epochs(job_id)
    return epochs


def half_way(service: Any) -> str:
    """Submit the job and return when it is in the middle."""
    job_id: str = service.submit(SPEC)
    service.wait_for_epoch(job_id, 20)
    return job_id


def assert_as_undisturbed(service: Any, job_id: str, undisturbed: list[dict[str, Any]]) -> None:
    """Check what the database holds once the dust has settled."""
    assert service.wait_for_end(job_id)["status"] == "succeeded"
    epochs = service.epochs(job_id)
    assert [epoch["epoch"] for epoch in epochs] == list(range(1, 151))
    for figure in FIGURES:
        assert [epoch[figure] for epoch in epochs] == [epoch[figure] for epoch in undisturbed], figure
    assert service.rows("SELECT count(*) AS n FROM results WHERE job_id = %s", job_id) == [{"n": 1}]
    attempts = service.rows("SELECT * FROM attempts WHERE job_id = %s ORDER BY number", job_id)
    assert all(attempt["ended_at"] is not None for attempt in attempts)
    assert [attempt["outcome"] for attempt in attempts][-1] == "succeeded"
    for earlier, later in pairwise(attempts):
        assert earlier["ended_at"] <= later["started_at"], "two attempts never overlap"


def wait_until_dead(process: psutil.Process, seconds: float = 5) -> None:
    """Wait until the process has ended; a zombie has, whether or not somebody has taken note of it yet."""
    deadline = time.monotonic() + seconds
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"{process} still runs"
        time.sleep(0.02)


def reasons(service: Any, job_id: str) -> list[str | None]:
    return [move["reason"] for move in service.job(job_id)["transitions"]]


def test_a_killed_runner_is_seen_at_once_and_the_job_goes_on(stack: Any, undisturbed: list[dict[str, Any]]) -> None:
    job_id = half_way(stack)
    runner = stack.runner_pid()
    os.kill(runner, signal.SIGKILL)
    killed = time.monotonic()
    stack.wait_for(job_id, lambda job: job["attempt"] == 2)
    assert time.monotonic() - killed < LEASE_SECONDS, "not after the lease"
    assert_as_undisturbed(stack, job_id, undisturbed)
    assert reasons(stack, job_id) == [None, None, "runner_died", None, None]


def test_a_killed_worker_takes_its_runner_along_and_the_job_goes_on_elsewhere(
    stack: Any, undisturbed: list[dict[str, Any]]
) -> None:
    job_id = half_way(stack)
    runner = psutil.Process(stack.runner_pid())
    stack.stack.kill_child("worker-1")
    wait_until_dead(runner)  # nobody would record what it does
    stack.stack.start_child("worker-1")
    assert_as_undisturbed(stack, job_id, undisturbed)
    assert reasons(stack, job_id) == [None, None, "worker_lost", None, None]


def test_a_lost_worker_is_noticed_while_no_other_is_alive(stack: Any, undisturbed: list[dict[str, Any]]) -> None:
    job_id = half_way(stack)
    stack.stack.kill_child("worker-1")
    job = stack.wait_for(job_id, lambda job: job["status"] == "queued", seconds=LEASE_SECONDS + 5)
    assert job["reason"] == "worker_lost"
    stack.stack.start_child("worker-1")
    assert_as_undisturbed(stack, job_id, undisturbed)


@pytest.mark.usefixtures("own_servers")
def test_a_running_job_does_not_notice_that_the_broker_was_killed(
    stack: Any, undisturbed: list[dict[str, Any]]
) -> None:
    job_id = half_way(stack)
    stack.stack.kill_child("valkey")
    while_away = stack.submit(SPEC)
    assert_as_undisturbed(stack, job_id, undisturbed)
    # Nothing could be sent: the idle worker looks by itself.
    assert_as_undisturbed(stack, while_away, undisturbed)
    stack.stack.start_child("valkey")
    assert_as_undisturbed(stack, half_way(stack), undisturbed)
    assert reasons(stack, job_id) == reasons(stack, while_away) == [None, None, None]


@pytest.mark.usefixtures("own_servers")
def test_a_killed_postgres_costs_neither_the_job_nor_an_epoch(stack: Any, undisturbed: list[dict[str, Any]]) -> None:
    job_id = half_way(stack)
    stack.stack.kill_child("postgres")
    answer = stack.http.get(f"/jobs/{job_id}")
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    stack.stack.start_child("postgres")
    assert_as_undisturbed(stack, job_id, undisturbed)


def test_a_killed_api_and_scheduler_do_not_stop_a_job(stack: Any, undisturbed: list[dict[str, Any]]) -> None:
    job_id = half_way(stack)
    stack.stack.kill_child("api")
    stack.stack.kill_child("scheduler")
    stack.stack.start_child("scheduler")
    stack.stack.start_child("api")
    stack.stack.wait_until_ready()
    assert_as_undisturbed(stack, job_id, undisturbed)
    assert reasons(stack, job_id) == [None, None, None]


def test_a_worker_that_is_told_to_stop_gives_its_job_back_without_counting_a_retry(
    stack: Any, undisturbed: list[dict[str, Any]]
) -> None:
    job_id = half_way(stack)
    stack.stack.kill_child("worker-1", signal.SIGTERM)
    job = stack.wait_for(job_id, lambda job: job["status"] == "queued", seconds=20)
    assert job["reason"] == "preempted"
    wait_until_dead(psutil.Process(stack.stack.pid("worker-1")), seconds=30)
    stack.stack.start_child("worker-1")
    assert_as_undisturbed(stack, job_id, undisturbed)
    assert stack.rows("SELECT retries FROM jobs WHERE id = %s", job_id) == [{"retries": 0}]


def test_a_suspended_worker_writes_nothing_after_its_lease(stack: Any, undisturbed: list[dict[str, Any]]) -> None:
    job_id = half_way(stack)
    runner = psutil.Process(stack.runner_pid())
    stack.stack.kill_child("worker-1", signal.SIGSTOP)
    try:
        stack.wait_for(job_id, lambda job: job["status"] == "queued", seconds=LEASE_SECONDS + 5)
    finally:
        stack.stack.kill_child("worker-1", signal.SIGCONT)
    wait_until_dead(runner, seconds=10)
    assert_as_undisturbed(stack, job_id, undisturbed)
    written = stack.rows("SELECT attempt, max(epoch) AS last FROM epochs WHERE job_id = %s GROUP BY attempt", job_id)
    last_of = {row["attempt"]: row["last"] for row in written}
    assert 20 <= last_of[1] < last_of[2] == 150, "the second attempt went on from what the first had recorded, no more"


def test_a_job_whose_runner_always_dies_fails_after_its_retries(stack: Any) -> None:
    job_id = stack.submit(SPEC | {"training": {"epochs": 100_000}})
    for attempt in range(1, 5):
        stack.wait_for(job_id, lambda job, n=attempt: job["attempt"] == n and job["message"] == "Trains on cpu.")
        os.kill(stack.runner_pid(), signal.SIGKILL)
    job = stack.wait_for_end(job_id)
    assert (job["status"], job["reason"]) == ("failed", "runner_died")
    assert "signal 9" in job["message"]
    outcomes = stack.rows("SELECT outcome FROM attempts WHERE job_id = %s", job_id)
    assert outcomes == [{"outcome": "runner_died"}] * 4


def test_a_runner_knows_no_way_to_the_database(stack: Any) -> None:
    job_id = half_way(stack)
    environment = psutil.Process(stack.runner_pid()).environ()
    assert not {"DATABASE_URL", "REDIS_URL"} & set(environment)
    stack.wait_for_end(job_id)
