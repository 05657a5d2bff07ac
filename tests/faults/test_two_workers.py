"""Two workers on one queue: no job runs twice at once, and none is left over."""

import signal
from typing import Any

import pytest

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
    for job_id in ids:
        job = stack.wait_for_end(job_id)
    assert job["status"] == "succeeded", job["message"]
    counts = stack.rows("SELECT job_id, count(*) AS n FROM attempts WHERE job_id = ANY(%s) GROUP BY job_id", ids)
    assert [row["n"] for row in counts] == [1] * 24
    workers = stack.rows("SELECT DISTINCT worker FROM attempts WHERE job_id = ANY(%s)", ids)
    assert len(workers) == 2, "both workers took part"


def test_the_other_worker_takes_over_from_one_that_is_killed(stack: Any) -> None:
    job_id = stack.submit(SHORT | {"training": {"epochs": 400, "seed": 3}})
    stack.wait_for_epoch(job_id, 10)
    (first,) = stack.rows("SELECT worker FROM attempts WHERE job_id = %s", job_id)
    name = f"worker-{first['worker'].rpartition('-')[2]}"
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
