"""`DELETE /jobs/{id}` and retention: who may delete what, what is gone at once, what others keep, and in what order."""

import shutil
import time
from itertools import product
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from worker.retention import Retention
from worker.settings import WorkerSettings

SPEC: dict[str, Any] = {
    "name": "to be deleted",
    "dataset": {"name": "digits"},
    "network": {"name": "mlp", "hidden": [16]},
    "training": {"epochs": 2},
}
STATUSES = ["queued", "running", "pausing", "paused", "cancelling", "cancelled", "succeeded", "failed"]
ENDED = {"cancelled", "succeeded", "failed"}
TABLES = ["transitions", "attempts", "epochs", "results", "scores", "predictions", "log_chunks", "milestones"]
DAY = 86_400


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    """A service that has trained one network and trains no more; the test itself says when something is removed."""
    service = start_service(poll_seconds=0.2, webhook_hosts="127.0.0.1", webhook_private_addresses=True)
    service.trained = service.submit(SPEC)
    assert service.wait_for_end(service.trained)["status"] == "succeeded"
    service.stack.kill_child("worker-1")
    service.stack.kill_child("scheduler")
    return service


@pytest.fixture
def remove(service: Any) -> Any:
    """How what is to go is removed, as the scheduler does; with days, what is older than these goes too."""

    def run(**settings: Any) -> None:
        chosen = {"artifacts_dir": service.stack.artifacts, "removal_seconds": 1e-6} | settings
        Retention(service.sessions, WorkerSettings(environment="development", **chosen)).remove()

    return run


def ended_job(service: Any, status: str = "succeeded", *, age: int = 0, spec: dict[str, Any] = SPEC) -> str:
    """Submit a job, with an epoch, a log and files, and write it into a status that it has had for `age` seconds."""
    job_id = str(service.submit(spec))
    values = {"job": job_id, "status": status, "age": age}
    for statement in (
        "UPDATE jobs SET status = %(status)s, attempt = 1 WHERE id = %(job)s",
        "UPDATE jobs SET created_at = clock_timestamp() - interval '1 second' * (%(age)s + 60) WHERE id = %(job)s",
        "UPDATE transitions SET at = clock_timestamp() - interval '1 second' * (%(age)s + 60) WHERE job_id = %(job)s",
        """
        INSERT INTO transitions (job_id, from_status, to_status, attempt, at)
        VALUES (%(job)s, 'queued', %(status)s, 1, clock_timestamp() - interval '1 second' * %(age)s)
        """,
        "INSERT INTO attempts (job_id, number, worker) VALUES (%(job)s, 1, 'w')",
        """
        INSERT INTO epochs (job_id, epoch, attempt, train_loss, learning_rate, penalty, seconds, checkpoint,
            checkpoint_sha256)
        VALUES (%(job)s, 1, 1, 0.5, 0.1, 0, 1, 'checkpoint-0001-000001.pt', 'x')
        """,
        "INSERT INTO log_chunks (job_id, attempt, text) VALUES (%(job)s, 1, 'said')",
    ):
        execute(service, statement, values)
    files_of(service, job_id).mkdir()
    (files_of(service, job_id) / "checkpoint-0001-000001.pt").write_bytes(b"weights")
    return job_id


def execute(service: Any, statement: str, values: dict[str, Any]) -> None:
    with psycopg.connect(service.stack.database_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(statement.encode(), values)


def files_of(service: Any, job_id: str) -> Path:
    return Path(service.stack.artifacts / job_id)


def rows_of(service: Any, job_id: str) -> dict[str, int]:
    """Count what the database has of a job."""
    counts = {table: f"(SELECT count(*) FROM {table} WHERE job_id = '{job_id}') AS {table}" for table in TABLES}
    (row,) = service.rows(
        f"SELECT (SELECT count(*) FROM jobs WHERE id = '{job_id}') AS jobs, {', '.join(counts.values())}"
    )
    return {table: count for table, count in row.items() if count}


def deleted_at(service: Any, job_id: str) -> Any:
    return service.rows("SELECT deleted_at FROM jobs WHERE id = %s", job_id)[0]["deleted_at"]


def require_gone(service: Any, job_id: str) -> None:
    """Require that nobody who asks for the job, or looks through lists, finds it."""
    for path in ("", "/metrics", "/result", "/logs", "/predictions", "/stream", "/events"):
        answer = service.http.get(f"/jobs/{job_id}{path}")
        assert (path, answer.status_code, answer.json()["code"]) == (path, 404, "job_not_found")
    for action in ("pause", "resume", "retry", "cancel", "clone"):
        answer = service.http.post(f"/jobs/{job_id}/{action}")
        assert (action, answer.status_code, answer.json()["code"]) == (action, 404, "job_not_found")
    assert service.http.patch(f"/jobs/{job_id}", json={"priority": 1}).status_code == 404
    listed = service.http.get("/jobs", params={"limit": 100}).json()["items"]
    assert job_id not in [job["id"] for job in listed]
    answer = service.http.get("/compare", params={"job": [job_id, service.trained]})
    assert answer.status_code == 404


@pytest.mark.parametrize("status", STATUSES)
def test_a_job_that_has_ended_is_deleted_and_no_other(service: Any, status: str) -> None:
    job_id = ended_job(service, status)
    before = rows_of(service, job_id)
    answer = service.http.delete(f"/jobs/{job_id}")
    audit = service.rows("SELECT action, detail FROM audit WHERE subject = %s ORDER BY id", f"job:{job_id}")
    if status in ENDED:
        assert (answer.status_code, answer.content) == (204, b"")
        require_gone(service, job_id)
        assert audit[-1] == {"action": "job.delete", "detail": {"name": "to be deleted", "status": status}}
        again = service.http.delete(f"/jobs/{job_id}")
        assert (again.status_code, again.content) == (204, b"")
        deletions = service.rows("SELECT 1 FROM audit WHERE action = 'job.delete' AND subject = %s", f"job:{job_id}")
        assert len(deletions) == 1
    else:
        assert (answer.status_code, answer.json()["code"]) == (409, "illegal_move")
        assert f"A job that is {status} cannot be deleted" in answer.json()["detail"]
        assert deleted_at(service, job_id) is None
        assert [entry["action"] for entry in audit] == ["job.submit"]
    assert rows_of(service, job_id) == before, "the rows go later, after the files"
    assert files_of(service, job_id).exists()


def test_only_its_owner_and_an_admin_delete_a_job(service: Any) -> None:
    owner, other = (service.client(service.new_user(f"{name}-{uuid4().hex[:6]}")) for name in ("owner", "other"))
    job_id = owner.post("/jobs", json=SPEC).json()["id"]
    service.rows("UPDATE jobs SET status = 'failed' WHERE id = %s", job_id)
    answer = other.delete(f"/jobs/{job_id}")
    assert (answer.status_code, answer.json()["code"]) == (403, "not_yours")
    assert deleted_at(service, job_id) is None
    assert owner.delete(f"/jobs/{job_id}").status_code == 204
    assert other.delete(f"/jobs/{job_id}").status_code == 404, "what is deleted is nobody's"
    assert owner.delete(f"/jobs/{job_id}").status_code == 204, "as often as they ask"
    assert other.delete("/jobs/01a1fc05-96f8-74b8-9c20-173cf1283400").json()["code"] == "job_not_found"


def test_curves_that_were_kept_in_memory_are_gone_too_in_every_process(service: Any) -> None:
    job_id = ended_job(service)
    path = f"/jobs/{job_id}/metrics?after=-1"
    with service.another_api() as api, api.client(service.stack.admin_token) as elsewhere:
        # The second answer of each is from memory alone.
        assert [client.get(path).status_code for client in (service.http, elsewhere) for _ in range(2)] == [200] * 4
        assert service.http.delete(f"/jobs/{job_id}").status_code == 204
        deadline = time.monotonic() + 10  # a notification takes some milliseconds to another process
        for client in (service.http, elsewhere):
            while client.get(path).status_code != 404:
                assert time.monotonic() < deadline
                time.sleep(0.002)


def test_files_and_rows_are_removed_for_good(service: Any, remove: Any) -> None:
    job_id, stays = ended_job(service), ended_job(service)
    assert service.http.delete(f"/jobs/{job_id}").status_code == 204
    remove(removal_seconds=600)
    assert files_of(service, job_id).exists(), "who follows it is given the time to hear of its end"
    remove()
    assert not files_of(service, job_id).exists()
    assert rows_of(service, job_id) == {}
    assert files_of(service, stays).exists()
    assert rows_of(service, stays)["jobs"] == 1
    assert service.rows("SELECT action FROM audit WHERE subject = %s ORDER BY id", f"job:{job_id}") == [
        {"action": "job.submit"},
        {"action": "job.delete"},
    ]
    require_gone(service, job_id)


def test_a_job_whose_files_cannot_be_removed_keeps_its_row_and_holds_up_no_other(service: Any, remove: Any) -> None:
    stuck, fine = ended_job(service), ended_job(service)
    directory = files_of(service, stuck)
    aside = directory.with_name("aside")
    directory.rename(aside)
    directory.symlink_to(aside)  # which is never followed
    for job_id in (stuck, fine):
        assert service.http.delete(f"/jobs/{job_id}").status_code == 204
    for _ in range(3):  # one look may have no time for both
        remove()
    assert (aside / "checkpoint-0001-000001.pt").exists()
    assert rows_of(service, stuck)["jobs"] == 1
    assert rows_of(service, fine) == {}
    directory.unlink()
    aside.rename(directory)
    remove()
    assert rows_of(service, stuck) == {}


def test_without_the_artifacts_no_row_is_removed(service: Any, remove: Any, tmp_path: Path) -> None:
    job_id = ended_job(service)
    assert service.http.delete(f"/jobs/{job_id}").status_code == 204
    remove(artifacts_dir=tmp_path / "not mounted")
    assert rows_of(service, job_id)["jobs"] == 1


def test_a_job_that_another_is_to_begin_with_stays_until_that_has_its_weights(service: Any, remove: Any) -> None:
    source = ended_job(service, age=30 * DAY)
    heir = service.submit(SPEC | {"initial_checkpoint": {"job": source, "which": "last"}})
    answer = service.http.delete(f"/jobs/{source}")
    assert (answer.status_code, answer.json()["code"]) == (409, "job_in_use")
    assert heir in answer.json()["detail"]
    remove(keep_jobs_days=10, keep_artifacts_days=10)
    assert deleted_at(service, source) is None
    assert files_of(service, source).exists()
    service.rows("UPDATE jobs SET initial_weights = '{}' WHERE id = %s", heir)
    assert service.http.delete(f"/jobs/{source}").status_code == 204
    answer = service.http.post("/jobs", json=SPEC | {"initial_checkpoint": {"job": source, "which": "last"}})
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "unknown_job")
    remove()
    assert service.job(heir)["status"] == "queued"


def test_a_job_that_depended_on_a_deleted_one_stays_and_says_so_when_it_is_tried_again(
    service: Any, remove: Any
) -> None:
    needed = ended_job(service)
    dependent = service.submit(SPEC | {"depends_on": [needed]})
    assert service.http.delete(f"/jobs/{needed}").status_code == 204, "it has succeeded: that is settled"
    remove()
    assert service.job(dependent)["message"] == "Waits for a worker."
    assert service.http.post(f"/jobs/{dependent}/pause").status_code == 202
    assert service.http.post(f"/jobs/{dependent}/resume").json()["message"] == "Waits for a worker."
    service.rows("UPDATE jobs SET status = 'failed' WHERE id = %s", dependent)
    answer = service.http.post(f"/jobs/{dependent}/retry")
    assert (answer.status_code, answer.json()["code"]) == (409, "dependency_failed")
    assert f"Job {needed}" in answer.json()["detail"]
    assert "was deleted" in answer.json()["detail"]
    answer = service.http.post(f"/jobs/{dependent}/clone", json={"overrides": {"depends_on": []}})
    assert answer.status_code == 201


def sweep_with(service: Any, job_id: str) -> str:
    """Make a sweep whose first point is this job; the second is still to be tried."""
    request = {
        "spec": SPEC,
        "parameters": {"kind": "grid", "values": {"training.batch_size": [32, 64]}},
        "objective": "validation_loss",
    }
    sweep_id = str(service.http.post("/sweeps", json=request).json()["id"])
    service.rows("UPDATE jobs SET sweep_id = %s WHERE id = %s", sweep_id, job_id)
    point = '{"training.batch_size": 32}'
    service.rows(
        "INSERT INTO sweep_points (sweep_id, number, parameters, job_id) VALUES (%s, 0, %s, %s)",
        *(sweep_id, point, job_id),
    )
    return sweep_id


def test_nothing_is_removed_while_the_artifacts_are_not_mounted(service: Any, remove: Any) -> None:
    job_id = ended_job(service)
    assert service.http.delete(f"/jobs/{job_id}").status_code == 204
    mounted = service.stack.artifacts
    elsewhere = mounted.rename(mounted.with_name("mounted-elsewhere"))
    mounted.mkdir()  # where they are to be mounted
    try:
        remove()
        assert rows_of(service, job_id) != {}, "its files would be nobody's"
    finally:
        mounted.rmdir()
        elsewhere.rename(mounted)
    remove()
    assert rows_of(service, job_id) == {}
    assert not files_of(service, job_id).exists()


def test_files_that_cannot_be_removed_do_not_keep_others_from_being(service: Any) -> None:
    settings = WorkerSettings(environment="development", artifacts_dir=service.stack.artifacts, removal_seconds=1e-6)
    retention = Retention(service.sessions, settings)
    stuck, after = [ended_job(service) for _ in range(2)], ended_job(service)
    for job_id in stuck:
        shutil.rmtree(files_of(service, job_id))
        files_of(service, job_id).write_text("a file where a folder should be")
    for job_id in (*stuck, after):
        assert service.http.delete(f"/jobs/{job_id}").status_code == 204
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worker.retention._PIECE", 2)
        retention.remove()
        retention.remove()
    assert rows_of(service, after) == {}
    for job_id in stuck:
        assert rows_of(service, job_id) != {}
        files_of(service, job_id).unlink()
        files_of(service, job_id).mkdir()


def test_a_sweep_keeps_its_jobs_while_it_goes_on_and_their_points_for_ever(service: Any, remove: Any) -> None:
    job_id = ended_job(service, age=30 * DAY)
    sweep_id = sweep_with(service, job_id)
    answer = service.http.delete(f"/jobs/{job_id}")
    assert (answer.status_code, answer.json()["code"]) == (409, "job_in_use")
    assert sweep_id in answer.json()["detail"]
    remove(keep_jobs_days=10)
    assert deleted_at(service, job_id) is None
    service.rows("UPDATE sweeps SET ended_at = clock_timestamp() WHERE id = %s", sweep_id)
    assert service.http.delete(f"/jobs/{job_id}").status_code == 204
    for _ in range(2):
        sweep = service.http.get(f"/sweeps/{sweep_id}").json()
        (point,) = sweep["leaderboard"]
        assert (point["job_id"], point["status"], point["reason"]) == (None, "refused", "job_deleted")
        assert point["message"] == "Its job was deleted."
        remove()
    assert rows_of(service, job_id) == {}


def test_what_waits_to_be_delivered_goes_with_the_job(service: Any, remove: Any, hook_to: Any, member: Any) -> None:
    hook_to("http://127.0.0.1:9/nobody-listens", "job.queued")
    job_id = member.post("/jobs", json=SPEC).json()["id"]
    assert service.rows("SELECT event, status FROM deliveries WHERE job_id = %s", job_id) == [
        {"event": "job.queued", "status": "pending"}
    ]
    service.rows("UPDATE jobs SET status = 'failed' WHERE id = %s", job_id)
    assert member.delete(f"/jobs/{job_id}").status_code == 204
    remove()
    assert service.rows("SELECT id FROM deliveries WHERE job_id = %s", job_id) == []
    assert member.delete(f"/jobs/{job_id}").status_code == 204, "the row is gone, and the audit remembers"


@pytest.mark.parametrize(("status", "old"), list(product(STATUSES, [False, True])))
def test_old_ended_jobs_lose_their_files_first_and_all_else_later(
    service: Any, remove: Any, status: str, old: bool
) -> None:
    job_id = ended_job(service, status, age=(20 if old else 2) * DAY)
    before = rows_of(service, job_id)
    remove()
    assert files_of(service, job_id).exists(), "without the settings everything is kept"
    remove(keep_artifacts_days=10, keep_jobs_days=365)
    goes = old and status in ENDED
    assert files_of(service, job_id).exists() is not goes
    assert rows_of(service, job_id) == before
    (epoch,) = service.rows("SELECT checkpoint FROM epochs WHERE job_id = %s", job_id)
    assert (epoch["checkpoint"] is None) is goes
    assert service.http.get(f"/jobs/{job_id}/metrics?after=-1").json()["epochs"][0]["train_loss"] == 0.5
    remove(keep_jobs_days=10)
    remove()
    assert rows_of(service, job_id) == ({} if goes else before)
    if goes:
        (entry,) = service.rows(
            "SELECT request_id FROM audit WHERE subject = %s AND action = 'job.delete'", f"job:{job_id}"
        )
        assert entry == {"request_id": "retention"}


def test_a_job_without_files_is_tried_again_from_the_start_and_is_nobodys_beginning(service: Any, remove: Any) -> None:
    job_id = ended_job(service, "failed", age=20 * DAY)
    remove(keep_artifacts_days=10)
    answer = service.http.post("/jobs", json=SPEC | {"initial_checkpoint": {"job": job_id, "which": "last"}})
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "no_checkpoint")
    assert service.http.post(f"/jobs/{job_id}/retry").status_code == 202
    (row,) = service.rows("SELECT artifacts_removed_at, initial_weights FROM jobs WHERE id = %s", job_id)
    assert row == {"artifacts_removed_at": None, "initial_weights": None}
    files_of(service, job_id).mkdir()
    remove(keep_artifacts_days=10)
    assert files_of(service, job_id).exists(), "it waits: what a new attempt writes is its own"
