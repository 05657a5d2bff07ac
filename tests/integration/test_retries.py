"""`retry` in a spec, with a real worker: which failures are followed by another attempt, and how many there are."""

import os
import signal
from typing import Any

import pytest

SPEC: dict[str, Any] = {"dataset": {"name": "digits"}, "network": {"name": "mlp", "hidden": [16]}}
DIVERGES: dict[str, Any] = SPEC | {
    "training": {"epochs": 5, "l2_penalty": 1.0, "optimizer": {"name": "sgd", "learning_rate": 1_000.0}},
    "resources": {"device": "cpu"},
}
ENDLESS: dict[str, Any] = SPEC | {"training": {"epochs": 100_000}}
LONG = 300.0  # seconds: at their end the test has failed


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    """A service that gives every job two retries, where its spec says nothing else."""
    return start_service(poll_seconds=0.2, retry_limit=2)


def outcomes(service: Any, job_id: str) -> list[str]:
    rows = service.rows("SELECT outcome FROM attempts WHERE job_id = %s ORDER BY number", job_id)
    return [row["outcome"] for row in rows]


@pytest.mark.parametrize(
    ("retry", "attempts"),
    [
        ({}, 1),
        ({"limit": 5}, 1),
        ({"on": ["runner_died"]}, 1),
        ({"on": ["non_finite_loss"]}, 3),
        ({"limit": 1, "on": ["non_finite_loss"]}, 2),
        ({"limit": 0, "on": ["non_finite_loss"]}, 1),
    ],
)
def test_a_failure_of_the_jobs_own_is_tried_again_as_often_as_it_asks_for(
    service: Any, retry: dict[str, Any], attempts: int
) -> None:
    job_id = service.submit(DIVERGES | {"retry": retry})
    job = service.wait_for_end(job_id, LONG)
    assert (job["status"], job["reason"]) == ("failed", "non_finite_loss")
    assert (job["attempt"], job["retries"]) == (attempts, attempts - 1)
    assert outcomes(service, job_id) == ["non_finite_loss"] * attempts
    moves = [(move["to_status"], move["reason"]) for move in job["transitions"]]
    again = [("queued", "non_finite_loss"), ("running", None)] * (attempts - 1)
    assert moves == [("queued", None), ("running", None), *again, ("failed", "non_finite_loss")]


@pytest.mark.parametrize("retry", [{"limit": 0}, {"on": []}, {"on": ["worker_lost"]}])
def test_a_runner_that_dies_ends_a_job_that_wants_no_second_attempt(service: Any, retry: dict[str, Any]) -> None:
    job_id = service.submit(ENDLESS | {"retry": retry})
    service.wait_for(job_id, lambda job: job["progress"]["epoch"] >= 1, LONG)
    os.kill(service.runner_pid(), signal.SIGKILL)
    job = service.wait_for_end(job_id, LONG)
    assert (job["status"], job["reason"], job["attempt"], job["retries"]) == ("failed", "runner_died", 1, 0)
    assert "signal 9" in job["message"]


def test_a_time_limit_that_is_tried_again_gives_each_attempt_its_own_and_goes_on_from_the_checkpoint(
    service: Any,
) -> None:
    limited = {"resources": {"time_limit_seconds": 5}, "retry": {"limit": 1, "on": ["time_limit"]}}
    job_id = service.submit(ENDLESS | limited)
    job = service.wait_for_end(job_id, LONG)
    assert (job["status"], job["reason"], job["attempt"], job["retries"]) == ("failed", "time_limit", 2, 1)
    assert outcomes(service, job_id) == ["time_limit"] * 2
    trained = service.rows(
        "SELECT attempt, min(epoch) AS first, max(epoch) AS last FROM epochs WHERE job_id = %s GROUP BY attempt "
        "ORDER BY attempt",
        job_id,
    )
    assert [row["attempt"] for row in trained] == [1, 2]
    assert trained[1]["first"] == trained[0]["last"] + 1


def test_a_persons_retry_begins_the_count_anew(service: Any) -> None:
    job_id = service.submit(DIVERGES | {"retry": {"limit": 1, "on": ["non_finite_loss"]}})
    assert service.wait_for_end(job_id, LONG)["retries"] == 1
    answer = service.http.post(f"/jobs/{job_id}/retry")
    assert (answer.status_code, answer.json()["retries"]) == (202, 0)
    job = service.wait_for(job_id, lambda job: job["status"] == "failed" and job["attempt"] == 4, LONG)
    assert job["retries"] == 1


@pytest.mark.parametrize(
    ("retry", "loc", "code"),
    [
        ({"limit": 11}, "retry.limit", "less_than_equal"),
        ({"on": ["cancelled_by_user"]}, "retry.on", "unknown_reason"),
        ({"on": [7]}, "retry.on.0", "string_type"),
        ({"again": True}, "retry.again", "extra_forbidden"),
        (3, "retry", "object_type"),
    ],
)
@pytest.mark.usefixtures("nothing_changes")
def test_a_bad_retry_is_refused_by_its_field_and_leaves_nothing_behind(
    service: Any, retry: Any, loc: str, code: str
) -> None:
    answer = service.http.post("/jobs", json=SPEC | {"retry": retry})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_spec")
    assert [(error["loc"], error["code"]) for error in answer.json()["errors"]] == [(loc, code)]
