"""Jobs that wait for others: what a submission checks, and what becomes of them however the others end."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import pytest

SPEC: dict[str, Any] = {"dataset": {"name": "digits"}, "network": {"name": "mlp"}, "training": {"epochs": 2}}


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    """A service without workers and scheduler: nothing is to change by itself."""
    service = start_service(workers=0, max_queued=100_000)
    service.stack.kill_child("scheduler")
    return service


def after(*needed: str) -> dict[str, Any]:
    """Return a spec that waits for these jobs."""
    return SPEC | {"depends_on": list(needed)}


def end(service: Any, job_id: str, status: str) -> None:
    """End a job as its worker does: the row, and then its transition, in one transaction."""
    service.rows(
        "WITH ended AS (UPDATE jobs SET status = %s WHERE id = %s RETURNING id) "
        "INSERT INTO transitions (job_id, from_status, to_status, attempt) SELECT id, 'running', %s, 1 FROM ended",
        *(status, job_id, status),
    )


def unmet(service: Any, job_id: str) -> int:
    (row,) = service.rows("SELECT unmet FROM jobs WHERE id = %s", job_id)
    return int(row["unmet"])


def test_a_job_waits_until_the_last_of_those_that_it_needs_has_succeeded(service: Any) -> None:
    first, second = service.submit(SPEC), service.submit(SPEC)
    job_id = service.submit(after(first, second, first))
    job = service.job(job_id)
    assert (job["status"], job["message"]) == ("queued", f"Waits for job {first} and 1 more.")
    assert job["transitions"][0]["message"] == job["message"]
    assert unmet(service, job_id) == 2, "each job once"
    end(service, first, "succeeded")
    assert (unmet(service, job_id), service.job(job_id)["message"]) == (1, f"Waits for job {second}.")
    (before,) = service.rows("SELECT queued_at FROM jobs WHERE id = %s", job_id)
    end(service, second, "succeeded")
    assert (unmet(service, job_id), service.job(job_id)["message"]) == (0, "Waits for a worker.")
    (now,) = service.rows("SELECT queued_at FROM jobs WHERE id = %s", job_id)
    assert now["queued_at"] > before["queued_at"], "it waits for a worker since now"


def test_what_has_succeeded_already_is_not_waited_for(service: Any) -> None:
    done = service.submit(SPEC)
    end(service, done, "succeeded")
    job_id = service.submit(after(done))
    assert (unmet(service, job_id), service.job(job_id)["message"]) == (0, "Waits for a worker.")
    assert len(service.rows("SELECT * FROM dependencies WHERE job_id = %s", job_id)) == 1


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_chain_fails_as_a_whole_and_says_which_job_it_was(service: Any, status: str) -> None:
    first = service.submit(SPEC)
    second = service.submit(after(first))
    third = service.submit(after(second))
    bystander = service.submit(SPEC)
    service.http.post(f"/jobs/{third}/pause")
    end(service, first, status)
    for job_id, needed in ((second, first), (third, second)):
        job = service.job(job_id)
        assert (job["status"], job["reason"]) == ("failed", "dependency_failed")
        assert job["message"] == f"Job {needed}, which it depends on, did not succeed."
        assert job["transitions"][-1]["reason"] == "dependency_failed"
        assert job["finished_at"] is not None
    assert service.job(third)["transitions"][-1]["from_status"] == "paused"
    assert service.job(bystander)["status"] == "queued"


def test_a_chain_of_a_thousand_ends_in_one_step(service: Any) -> None:
    first = service.submit(SPEC)
    service.rows(
        "WITH RECURSIVE chain (number, id, needs) AS (SELECT 1, gen_random_uuid(), %s::uuid UNION ALL "
        "SELECT number + 1, gen_random_uuid(), id FROM chain WHERE number < 1000) "
        "INSERT INTO jobs (id, user_id, queue, priority, device, gpus, exclusive, likeness, status, spec, epochs, "
        "attempt, retries, unmet) SELECT chain.id, user_id, queue, priority, device, gpus, exclusive, 'like', status, "
        "spec || jsonb_build_object('depends_on', jsonb_build_array(needs)), epochs, 0, 0, 1 "
        "FROM chain, jobs WHERE jobs.id = %s",
        *(first, first),
    )
    end(service, first, "failed")
    (count,) = service.rows("SELECT count(*) AS n FROM jobs WHERE reason = 'dependency_failed' AND likeness = 'like'")
    assert count["n"] == 1000


def test_a_cancel_fails_who_waits_and_webhooks_and_streams_hear_of_it(service: Any) -> None:
    first = service.submit(SPEC)
    second = service.submit(after(first))
    assert service.http.post(f"/jobs/{first}/cancel").json()["status"] == "cancelled"
    assert service.job(second)["reason"] == "dependency_failed"
    with service.http.stream("GET", f"/jobs/{second}/stream") as answer:
        events = answer.read().decode()
    assert "event: end" in events
    assert "dependency_failed" in events


def test_a_retry_of_the_needed_job_does_not_revive_who_waited_but_lets_them_be_tried_again(service: Any) -> None:
    first = service.submit(SPEC)
    second = service.submit(after(first))
    end(service, first, "failed")
    answer = service.http.post(f"/jobs/{second}/retry")
    assert (answer.status_code, answer.json()["code"]) == (409, "dependency_failed")
    assert first in answer.json()["detail"]
    assert service.job(second)["status"] == "failed"
    assert service.http.post(f"/jobs/{first}/retry").status_code == 202
    assert service.job(second)["status"] == "failed"
    answer = service.http.post(f"/jobs/{second}/retry")
    assert (answer.status_code, answer.json()["message"]) == (202, f"Waits for job {first}.")
    end(service, first, "succeeded")
    assert unmet(service, second) == 0


def test_what_is_paused_counts_down_too_and_says_so_when_it_is_resumed(service: Any) -> None:
    first, second = service.submit(SPEC), service.submit(SPEC)
    job_id = service.submit(after(first, second))
    service.http.post(f"/jobs/{job_id}/pause")
    end(service, first, "succeeded")
    assert (service.job(job_id)["message"], unmet(service, job_id)) == ("Paused by a user.", 1)
    resumed = service.http.post(f"/jobs/{job_id}/resume").json()
    assert (resumed["status"], resumed["message"]) == ("queued", f"Waits for job {second}.")
    assert unmet(service, job_id) == 1


@pytest.mark.parametrize("nothing", [str(UUID(int=0)), "no-uuid", 3, None])
def test_a_job_that_is_not_there_is_named_by_its_place(service: Any, nothing: Any) -> None:
    known = service.submit(SPEC)
    before = service.rows("SELECT count(*) AS n FROM jobs")
    answer = service.http.post("/jobs", json=after(known, nothing))
    assert answer.status_code == 422, answer.text
    assert [error["loc"] for error in answer.json()["errors"]] == ["depends_on.1"]
    assert service.rows("SELECT count(*) AS n FROM jobs") == before


def test_what_has_ended_without_success_is_refused(service: Any) -> None:
    known = service.submit(SPEC)
    end(service, known, "failed")
    answer = service.http.post("/jobs", json=after(known))
    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, "depends_on.0")
    assert "failed" in answer.json()["detail"]


def test_the_items_of_a_batch_wait_for_jobs_that_there_are(service: Any) -> None:
    known, nobody = service.submit(SPEC), str(uuid4())
    answer = service.http.post("/jobs:batch", json={"jobs": [SPEC, after(known), after(nobody)], "mode": "each"})
    items = answer.json()["items"]
    assert [item["status"] for item in items] == [201, 201, 422]
    assert items[2]["error"]["errors"][0]["loc"] == "depends_on.0"
    assert [unmet(service, item["job"]["id"]) for item in items[:2]] == [0, 1]
    answer = service.http.post("/jobs:batch", json={"jobs": [SPEC, after(nobody)]})
    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, "jobs.1.depends_on.0")


def test_a_sweeps_jobs_may_wait_but_not_each_for_another(service: Any) -> None:
    sweep = {
        "spec": after(str(uuid4())),
        "parameters": {"kind": "grid", "values": {"training.batch_size": [32]}},
        "objective": "validation_loss",
    }
    answer = service.http.post("/sweeps", json=sweep)
    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, "spec.depends_on.0")
    values = {"depends_on": [[service.submit(SPEC)]]}
    answer = service.http.post("/sweeps", json=sweep | {"parameters": {"kind": "grid", "values": values}})
    assert answer.status_code == 422
    assert "same for all jobs of a sweep" in answer.json()["detail"]


def test_whoever_may_not_read_a_job_cannot_wait_for_it(service: Any) -> None:
    known = service.submit(SPEC)
    token = service.new_user("outsider")
    with service.another_api(jobs_visible="own") as api, api.client(token) as outsider:
        answer = outsider.post("/jobs", json=after(known))
        missing = outsider.post("/jobs", json=after(nobody := str(uuid4())))
    assert (answer.status_code, missing.status_code) == (422, 422)
    said = answer.json()["errors"][0]["message"].replace(known, nobody)
    assert said == missing.json()["errors"][0]["message"], "it looks as if it were not there"


def test_submissions_and_ends_at_the_same_time_leave_nobody_waiting_for_ever(service: Any) -> None:
    for status in ("succeeded", "failed"):
        needed = [service.submit(SPEC) for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            ends = [pool.submit(end, service, job_id, status) for job_id in needed]
            answers = list(pool.map(lambda one: service.http.post("/jobs", json=after(*one)), [needed] * 24))
            for done in ends:
                done.result()
        ids = [answer.json()["id"] for answer in answers if answer.status_code == 201]
        assert all(answer.status_code in (201, 422) for answer in answers)
        rows = service.rows("SELECT status, unmet FROM jobs WHERE id = ANY (%s::uuid[])", ids)
        settled = ("queued", 0) if status == "succeeded" else "failed"
        assert all((row["status"], row["unmet"]) == settled or row["status"] == settled for row in rows), rows
