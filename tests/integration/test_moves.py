"""What one can do to a job, over HTTP: every action at every status, what each leaves behind, and clones."""

from itertools import product
from typing import Any

import pytest

SPEC: dict[str, Any] = {
    "name": "the original",
    "dataset": {"name": "digits"},
    "network": {"name": "mlp", "hidden": [32]},
    "training": {"epochs": 4, "optimizer": {"name": "sgd", "learning_rate": 0.1, "momentum": 0.5}},
    "tags": ["moves"],
}
STATUSES = ["queued", "running", "pausing", "paused", "cancelling", "cancelled", "succeeded", "failed"]
# Where each action leads from each status; what is not here is refused.
LEADS: dict[str, dict[str, str]] = {
    "pause": {"queued": "paused", "running": "pausing"},
    "resume": {"paused": "queued", "pausing": "running"},
    "retry": {"failed": "queued", "cancelled": "queued"},
    # A cancel of what ends anyway, or has ended, is no error: it leaves the job as it is.
    "cancel": {status: status for status in STATUSES}
    | {"queued": "cancelled", "paused": "cancelled", "running": "cancelling", "pausing": "cancelling"},
    "clone": {status: status for status in STATUSES},
}
ROW = "status, reason, message, attempt, retries, unmet, trained_since, timed_since, yields_to, spec, priority"


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    """A service without workers and scheduler: nothing is to change by itself."""
    service = start_service(workers=0, max_queued=100_000)
    service.stack.kill_child("scheduler")
    return service


def job_at(service: Any, status: str, spec: dict[str, Any] = SPEC) -> str:
    """Submit a job and write it into a status, as its worker would have left it in its first attempt."""
    job_id = str(service.submit(spec))
    if status != "queued":
        live = "clock_timestamp() + interval '1 hour'" if status in ("running", "pausing", "cancelling") else "NULL"
        service.rows(
            f"UPDATE jobs SET status = %s, attempt = 1, retries = 2, lease_expires_at = {live} WHERE id = %s",
            *(status, job_id),
        )
        service.rows(
            "INSERT INTO transitions (job_id, from_status, to_status, attempt) VALUES (%s, 'queued', %s, 1)",
            *(job_id, status),
        )
    return job_id


def state_of(service: Any, job_id: str) -> tuple[Any, ...]:
    (row,) = service.rows(f"SELECT {ROW} FROM jobs WHERE id = %s", job_id)
    moves = service.rows("SELECT * FROM transitions WHERE job_id = %s ORDER BY id", job_id)
    audit = service.rows("SELECT action FROM audit WHERE subject = %s ORDER BY id", f"job:{job_id}")
    return row, moves, audit


@pytest.mark.parametrize(("action", "status"), list(product(LEADS, STATUSES)))
def test_every_action_at_every_status(service: Any, action: str, status: str) -> None:
    job_id = job_at(service, status)
    before = state_of(service, job_id)
    answer = service.http.post(f"/jobs/{job_id}/{action}")
    after = LEADS[action].get(status)
    if after is None:
        assert answer.status_code == 409, answer.text
        assert answer.json()["code"] == "illegal_move"
        assert f"A job that is {status} cannot be " in answer.json()["detail"]
        assert state_of(service, job_id) == before, "nothing is left behind"
    elif after == status:
        assert answer.status_code == (201 if action == "clone" else 202), answer.text
        assert state_of(service, job_id) == before
    else:
        assert answer.status_code == 202, answer.text
        assert answer.json()["status"] == after
        row, moves, audit = state_of(service, job_id)
        assert row["status"] == after
        assert (moves[-1]["from_status"], moves[-1]["to_status"]) == (status, after)
        assert len(moves) == len(before[1]) + 1
        assert audit[-1]["action"] == f"job.{action}"


@pytest.mark.parametrize("status", STATUSES)
def test_the_priority_of_a_waiting_job_alone_is_changed(service: Any, status: str) -> None:
    job_id = job_at(service, status)
    before = state_of(service, job_id)
    answer = service.http.patch(f"/jobs/{job_id}", json={"priority": 7})
    if answer.status_code == 200:
        assert status in ("queued", "paused")
        assert state_of(service, job_id)[0]["priority"] == 7
    else:
        assert status != "queued"
        assert (answer.status_code, answer.json()["code"]) == (409, "illegal_move")
        assert status in answer.json()["detail"]
        assert state_of(service, job_id) == before


@pytest.mark.parametrize(("body", "trained_since"), [({}, 1), ({"from": "checkpoint"}, 1), ({"from": "start"}, 2)])
def test_a_retry_says_from_where_and_forgets_losses(service: Any, body: dict[str, Any], trained_since: int) -> None:
    job_id = job_at(service, "failed")
    answer = service.http.post(f"/jobs/{job_id}/retry", json=body)
    assert (answer.status_code, answer.json()["finished_at"]) == (202, None)
    row, *_ = state_of(service, job_id)
    assert (row["retries"], row["timed_since"], row["trained_since"]) == (0, 2, trained_since)


@pytest.mark.parametrize("body", [{"from": "the middle"}, {"from": None}, {"start": "start"}, {"epoch": 3}, []])
def test_a_retry_from_elsewhere_is_refused(service: Any, body: Any) -> None:
    job_id = job_at(service, "failed")
    before = state_of(service, job_id)
    answer = service.http.post(f"/jobs/{job_id}/retry", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_spec")
    assert state_of(service, job_id) == before


@pytest.mark.parametrize("action", ["pause", "resume", "retry"])
def test_an_action_is_taken_once_with_one_key(service: Any, action: str) -> None:
    job_id = job_at(service, {"pause": "queued", "resume": "paused", "retry": "failed"}[action])
    key = {"Idempotency-Key": f"{action}-{job_id}"}
    first, again = (service.http.post(f"/jobs/{job_id}/{action}", headers=key) for _ in range(2))
    assert (first.status_code, again.status_code, first.json()) == (202, 202, again.json())
    assert again.headers["idempotency-replayed"] == "true"
    assert len(state_of(service, job_id)[2]) == 2, "submitted, and once more"


@pytest.mark.parametrize("action", ["pause", "resume", "retry"])
def test_what_is_not_ones_own_is_left_alone_and_what_is_not_there_is_not_found(service: Any, action: str) -> None:
    job_id = job_at(service, {"pause": "queued", "resume": "paused", "retry": "failed"}[action])
    before = state_of(service, job_id)
    other = service.client(service.new_user(f"other-{action}"))
    answer = other.post(f"/jobs/{job_id}/{action}")
    assert (answer.status_code, answer.json()["code"]) == (403, "not_yours")
    assert state_of(service, job_id) == before
    answer = other.post(f"/jobs/01a1fc05-96f8-74b8-9c20-173cf1283400/{action}")
    assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")


def test_a_clone_equals_the_original_down_to_the_seed(service: Any) -> None:
    job_id = job_at(service, "failed")
    original = service.job(job_id)
    someone = service.client(service.new_user("someone"))
    answer = someone.post(f"/jobs/{job_id}/clone")
    assert answer.status_code == 201, answer.text
    clone = answer.json()
    assert answer.headers["location"] == f"/jobs/{clone['id']}"
    assert (clone["spec"], clone["user"], clone["status"]) == (original["spec"], "someone", "queued")
    assert clone["id"] != job_id
    (audit,) = service.rows("SELECT action, detail FROM audit WHERE subject = %s", f"job:{clone['id']}")
    assert audit == {"action": "job.submit", "detail": {"clone_of": job_id}}


def test_overrides_are_a_merge_patch_over_the_whole_spec(service: Any) -> None:
    job_id = job_at(service, "succeeded")
    overrides = {
        "training": {"epochs": 9, "seed": None, "optimizer": {"name": "adam", "momentum": None, "nesterov": None}},
        "tags": ["clone"],
    }
    answer = service.http.post(f"/jobs/{job_id}/clone", json={"overrides": overrides, "name": "the other"})
    assert answer.status_code == 201, answer.text
    spec, original = answer.json()["spec"], service.job(job_id)["spec"]
    assert (spec["name"], spec["tags"], spec["training"]["epochs"]) == ("the other", ["clone"], 9)
    assert spec["training"]["optimizer"]["name"] == "adam"
    assert spec["training"]["optimizer"]["learning_rate"] == 0.1, "what the patch does not name stays"
    assert isinstance(spec["training"]["seed"], int), "a new one, where the old one is put back to its default"
    assert spec["training"]["seed"] != original["training"]["seed"]
    assert spec["network"] == original["network"]


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ({"overrides": {"training": {"epochs": 0}}}, "training.epochs"),
        ({"overrides": {"network": {"hidden": [1, 2, "three"]}}}, "network.hidden.2"),
        ({"overrides": {"nonsense": 1}}, "nonsense"),
        ({"overrides": {"dataset": None}}, "dataset"),
        ({"overrides": {"depends_on": ["01a1fc05-96f8-74b8-9c20-173cf1283400"]}}, "depends_on.0"),
        ({"overrides": 3}, "overrides"),
        ({"names": "x"}, "names"),
    ],
)
def test_a_clone_that_could_not_be_submitted_is_refused_like_a_new_job(
    service: Any, body: dict[str, Any], loc: str
) -> None:
    job_id = job_at(service, "queued")
    before = service.rows("SELECT count(*) AS n FROM jobs")
    answer = service.http.post(f"/jobs/{job_id}/clone", json=body)
    assert answer.status_code == 422, answer.text
    assert loc in [error["loc"] for error in answer.json()["errors"]]
    assert service.rows("SELECT count(*) AS n FROM jobs") == before


def test_a_clone_with_one_key_is_one_job(service: Any) -> None:
    job_id = job_at(service, "queued")
    key = {"Idempotency-Key": f"clone-{job_id}"}
    first, again = (service.http.post(f"/jobs/{job_id}/clone", headers=key) for _ in range(2))
    assert (first.status_code, again.status_code, first.json()["id"]) == (201, 201, again.json()["id"])
    assert again.headers["location"] == first.headers["location"]


def test_a_retried_job_of_a_sweep_opens_the_sweep_again(service: Any) -> None:
    sweep = {
        "spec": SPEC,
        "parameters": {"kind": "grid", "values": {"training.batch_size": [32]}},
        "objective": "validation_loss",
    }
    sweep_id = service.http.post("/sweeps", json=sweep).json()["id"]
    job_id = job_at(service, "failed")
    service.rows("UPDATE jobs SET sweep_id = %s WHERE id = %s", sweep_id, job_id)
    service.rows("UPDATE sweeps SET ended_at = clock_timestamp() WHERE id = %s", sweep_id)
    assert service.http.get(f"/sweeps/{sweep_id}").json()["status"] == "ended"
    assert service.http.post(f"/jobs/{job_id}/retry").status_code == 202
    assert service.http.get(f"/sweeps/{sweep_id}").json()["status"] == "running"
