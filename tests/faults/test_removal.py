"""The scheduler killed between a deleted job's files and its row: the job stays gone, and the rest of it goes."""

import signal
from typing import Any

import pytest

from harness.leaks import require_nothing_leaked
from local.children import wait_until
from models.faults import FaultPoint

SPEC: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "network": {"name": "mlp", "hidden": [16]},
    "training": {"epochs": 2},
}


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    """A service that removes soon what was deleted."""
    return start_service(fault_points=True, removal_seconds=0.3, poll_seconds=0.3)


def test_a_kill_between_the_files_and_the_row_of_a_deleted_job_leaves_nothing_behind(service: Any) -> None:
    deleted, stays = (service.submit(SPEC) for _ in range(2))
    for job_id in (deleted, stays):
        assert service.wait_for_end(job_id)["status"] == "succeeded"
    folder = service.stack.artifacts / deleted
    assert any(folder.iterdir())
    with service.faults.holding(FaultPoint.REMOVAL) as held:
        assert service.http.delete(f"/jobs/{deleted}").status_code == 204
        assert held() == service.stack.pid("scheduler")
        assert not folder.exists(), "files first"
        row = service.job_row(deleted)
        assert (row["status"], row["deleted_at"] is not None) == ("succeeded", True), "the row last"
        service.stack.kill_child("scheduler", signal.SIGKILL)
    assert service.job_row(deleted)["deleted_at"] is not None, "what was not committed has not happened"
    assert service.http.get(f"/jobs/{deleted}").status_code == 404

    service.stack.start_child("scheduler")
    gone = "SELECT id FROM jobs WHERE id = %s"
    wait_until(lambda: not service.rows(gone, deleted), watch=service.stack.check, what="the removal", seconds=120)
    for table in ("epochs", "results", "transitions", "attempts", "milestones", "log_chunks", "scores", "predictions"):
        assert service.rows(f"SELECT 1 FROM {table} WHERE job_id = %s", deleted) == [], table
    audit = service.rows("SELECT action FROM audit WHERE subject = %s ORDER BY id", f"job:{deleted}")
    assert [entry["action"] for entry in audit] == ["job.submit", "job.delete"]
    assert any((service.stack.artifacts / stays).iterdir())
    assert service.job(stays)["status"] == "succeeded"
    assert service.wrong_answers == []
    require_nothing_leaked(service)
