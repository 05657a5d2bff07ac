"""Two workers on one queue: no job runs twice at once, and none is left over."""

import shutil
import signal
from itertools import accumulate
from typing import Any

import psutil
import pytest

from harness.invariants import require_invariants

SHORT = {"dataset": {"name": "digits"}, "network": {"name": "mlp", "hidden": [16]}, "training": {"epochs": 2}}


@pytest.fixture(scope="module")
def stack(start_service: Any) -> Any:
    """Two workers with two slots each."""
    return start_service(slots=2, workers=2, lease_seconds=5, beat_seconds=0.5, poll_seconds=0.5, sweep_seconds=0.5)


def test_one_job_is_run_by_one_of_two_workers(stack: Any) -> None:
    job_id = stack.submit(SHORT)
    job = stack.wait_for_end(job_id)
    assert job["status"] == "succeeded", job["message"]
    assert stack.rows("SELECT number, outcome FROM attempts WHERE job_id = %s", job_id) == [
        {"number": 1, "outcome": "succeeded"}
    ]


def test_each_of_many_jobs_is_claimed_once(stack: Any) -> None:
    ids = [stack.submit(SHORT) for _ in range(24)]
    assert {stack.wait_for_end(job_id)["status"] for job_id in ids} == {"succeeded"}
    counts = stack.rows("SELECT job_id, count(*) AS n FROM attempts WHERE job_id = ANY(%s) GROUP BY job_id", ids)
    assert [row["n"] for row in counts] == [1] * 24
    workers = stack.rows("SELECT DISTINCT worker FROM attempts WHERE job_id = ANY(%s)", ids)
    assert len(workers) == 2, "both workers took part"


def test_each_of_500_jobs_is_claimed_once_and_no_worker_takes_more_than_it_has_slots(stack: Any) -> None:
    base = stack.submit(SHORT)
    assert stack.wait_for_end(base)["status"] == "succeeded"
    shutil.rmtree(stack.stack.artifacts / base)  # what begins with its weights ends at once: claims are all there is
    spec = SHORT | {"initial_checkpoint": {"job": base}}
    answer = stack.http.post("/jobs:batch", json={"jobs": [spec] * 500})
    assert answer.status_code == 201, answer.text
    ids = [item["job"]["id"] for item in answer.json()["items"]]
    for job_id in reversed(ids):
        assert stack.wait_for_end(job_id)["reason"] == "initial_checkpoint_lost"
    attempts = stack.rows("SELECT * FROM attempts WHERE job_id = ANY(%s)", ids)
    assert sorted(str(attempt["job_id"]) for attempt in attempts) == sorted(ids), "each was claimed once"
    for worker in {attempt["worker"] for attempt in attempts}:
        own = [attempt for attempt in attempts if attempt["worker"] == worker]
        changes = sorted([(one["started_at"], 1) for one in own] + [(one["ended_at"], -1) for one in own])
        assert max(accumulate(change for _, change in changes)) <= 2, "never more at once than there are slots"
    assert len({attempt["worker"] for attempt in attempts}) == 2, "both workers took part"
    require_invariants(stack, ids)


def worker_of(service: Any, job_id: str, attempt: int) -> str:
    (row,) = service.rows("SELECT worker FROM attempts WHERE job_id = %s AND number = %s", job_id, attempt)
    return f"worker-{row['worker'].rpartition('-')[2]}"


def test_the_other_worker_takes_over_from_one_that_is_killed(stack: Any) -> None:
    job_id = stack.submit(SHORT | {"training": {"epochs": 400, "seed": 3}})
    stack.wait_for_epoch(job_id, 10)
    name = worker_of(stack, job_id, 1)
    stack.stack.kill_child(name, signal.SIGKILL)
    try:
        job = stack.wait_for_end(job_id)
        assert job["status"] == "succeeded", job["message"]
    finally:
        stack.stack.start_child(name)
    attempts = stack.rows("SELECT worker, outcome FROM attempts WHERE job_id = %s ORDER BY number", job_id)
    assert [attempt["outcome"] for attempt in attempts] == ["worker_lost", "succeeded"]
    assert attempts[0]["worker"] != attempts[1]["worker"]
    assert [epoch["epoch"] for epoch in stack.epochs(job_id)] == list(range(1, 401))


def test_a_suspended_worker_neither_trains_nor_writes_beside_its_successor(stack: Any) -> None:
    job_id = stack.submit(SHORT | {"training": {"epochs": 100_000, "seed": 3}})
    stack.wait_for_epoch(job_id, 10)
    name = worker_of(stack, job_id, 1)
    runner = psutil.Process(stack.runner_pid(name))
    stack.stack.kill_child(name, signal.SIGSTOP)
    try:
        stack.wait_for(job_id, lambda job: job["attempt"] == 2 and job["message"] == "Trains on cpu.")
        assert not runner.is_running() or runner.status() == psutil.STATUS_ZOMBIE, "its runner ended with its lease"
    finally:
        stack.stack.kill_child(name, signal.SIGCONT)
    own = "SELECT max(epoch) AS last FROM epochs WHERE job_id = %s AND attempt = 1"
    before = stack.rows(own, job_id)
    reached = stack.job(job_id)["progress"]["epoch"]
    stack.wait_for_epoch(job_id, reached + 50)
    assert stack.rows(own, job_id) == before
    assert stack.job(job_id)["attempt"] == 2
    stack.http.post(f"/jobs/{job_id}/cancel")
    assert stack.wait_for_end(job_id)["status"] == "cancelled"
