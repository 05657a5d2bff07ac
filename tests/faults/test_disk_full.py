"""Full disks: a clear end that a retry goes on from, or a wait until there is space, and nothing half written."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.figures import Figures, figures_of
from harness.invariants import require_invariants
from harness.leaks import require_nothing_leaked
from harness.small_disk import SmallDisk, small_disk
from local.children import Child
from models.dataset_spec import NamedDataset
from models.errors import DiskFull
from models.faults import FaultPoint
from worker.datasets.loading import load_images

SPEC: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "network": {"name": "mlp", "hidden": [32], "dropout": 0.2},
    "training": {"epochs": 9, "batch_size": 479, "seed": 5, "optimizer": {"name": "adam", "learning_rate": 0.01}},
}
BATCHES = 3  # an epoch
WARM_SECONDS = 180  # in which the first runner of a worker has imported torch on a busy machine
# The last two checkpoints, and the best.
KEPT = """
    SELECT checkpoint FROM epochs JOIN scores USING (job_id)
    WHERE job_id = %s AND (epoch > last_epoch - 2 OR epoch = best_epoch)
"""


@pytest.fixture(scope="module")
def logs_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    """What the worker's own log is on."""
    with small_disk(tmp_path_factory.mktemp("logs")) as disk:
        yield disk


@pytest.fixture(scope="module")
def service(start_service: Any, logs_disk: SmallDisk) -> Iterator[Any]:
    """A stack with one worker, whose log is on a disk of its own."""
    service = start_service(workers=0, fault_points=True, poll_seconds=0.5)
    child = Child(service.stack._python("worker-1", "worker", grace_seconds=30), logs_disk.path / "worker.log")
    try:
        yield service
    finally:
        child.stop()


@pytest.fixture(scope="module")
def artifacts_disk(service: Any) -> Iterator[SmallDisk]:
    """What the worker keeps checkpoints on."""
    with small_disk(service.stack.artifacts) as disk:
        yield disk


@pytest.fixture
def artifacts(artifacts_disk: SmallDisk) -> Iterator[SmallDisk]:
    """The same, with space on it before and after."""
    yield artifacts_disk
    artifacts_disk.free()


@pytest.fixture(scope="module")
def donor(service: Any, artifacts_disk: SmallDisk) -> str:
    """A job that nothing happened to."""
    assert artifacts_disk.path == service.stack.artifacts
    job_id: str = service.submit(SPEC)
    assert service.wait_for_end(job_id, WARM_SECONDS)["status"] == "succeeded"
    return job_id


@pytest.fixture(scope="module")
def undisturbed(service: Any, donor: str) -> Figures:
    return figures_of(service, donor)


def files_of(service: Any, job_id: str) -> set[str]:
    return {path.name for path in (service.stack.artifacts / job_id).iterdir()}


def wait_for_files(service: Any, job_id: str) -> None:
    """Wait until the checkpoints that are superfluous are gone; their epoch is recorded a moment before."""
    kept = {row["checkpoint"] for row in service.rows(KEPT, job_id)}
    deadline = time.monotonic() + 60
    while files_of(service, job_id) != kept:
        assert time.monotonic() < deadline, files_of(service, job_id)
        time.sleep(0.01)


def retry_to_success(service: Any, job_id: str) -> None:
    assert service.http.post(f"/jobs/{job_id}/retry").status_code == 202
    job = service.wait_for_end(job_id)
    assert job["status"] == "succeeded", job["message"]


def test_a_checkpoint_without_space_ends_the_job_and_a_retry_goes_on_from_the_one_before(
    service: Any, artifacts: SmallDisk, undisturbed: Figures
) -> None:
    with service.faults.holding(FaultPoint.EPOCH, passes=BATCHES * 5 + 1) as held:
        job_id = service.submit(SPEC)
        held()
        service.wait_for_epoch(job_id, 5)
        wait_for_files(service, job_id)
        before = files_of(service, job_id)
        artifacts.fill()
    job = service.wait_for_end(job_id)
    assert (job["status"], job["reason"]) == ("failed", "disk_full")
    assert "No space is left under" in job["message"]
    assert "checkpoint-0001-000006.pt" in job["message"]
    assert [epoch["epoch"] for epoch in service.epochs(job_id)] == [1, 2, 3, 4, 5]
    assert files_of(service, job_id) == before, "nothing half written, and nothing removed"
    require_invariants(service, [job_id])
    artifacts.free()
    retry_to_success(service, job_id)
    assert figures_of(service, job_id) == undisturbed
    require_nothing_leaked(service)


def test_initial_weights_without_space_end_the_job_at_once_and_a_retry_begins_with_them(
    service: Any, artifacts: SmallDisk, donor: str
) -> None:
    artifacts.fill_with_files()
    job_id = service.submit(SPEC | {"initial_checkpoint": {"job": donor}})
    job = service.wait_for_end(job_id)
    assert (job["status"], job["reason"]) == ("failed", "disk_full")
    assert "for the initial checkpoint" in job["message"]
    assert service.rows("SELECT outcome FROM attempts WHERE job_id = %s", job_id) == [{"outcome": "disk_full"}]
    assert not (service.stack.artifacts / job_id).exists()
    artifacts.free()
    retry_to_success(service, job_id)
    assert service.http.get(f"/jobs/{job_id}/result").json()["initial_checkpoint"]["job"] == donor


@pytest.mark.usefixtures("artifacts")
def test_a_worker_that_cannot_log_any_more_trains_as_before(
    service: Any, logs_disk: SmallDisk, undisturbed: Figures
) -> None:
    with service.faults.holding(FaultPoint.EPOCH, passes=BATCHES * 2 + 1) as held:
        job_id = service.submit(SPEC)
        held()
        logs_disk.fill()
    assert service.wait_for_end(job_id)["status"] == "succeeded"
    following = service.submit(SPEC)
    assert service.wait_for_end(following)["status"] == "succeeded"
    logs_disk.free()
    require_invariants(service, [job_id, following], undisturbed=undisturbed)


@pytest.mark.usefixtures("own_servers", "artifacts")
def test_a_job_whose_log_cannot_be_stored_trains_on_and_ends_once_there_is_space(
    service: Any, undisturbed: Figures
) -> None:
    with small_disk(service.stack.runtime / "small", mebibytes=1) as disk:
        place = disk.path / "of-postgres"
        place.mkdir()
        status = (service.data_dir / "postgres").stat()
        os.chown(place, status.st_uid, status.st_gid)
        service.rows(f"CREATE TABLESPACE small LOCATION '{place}'")
        service.rows("TRUNCATE log_chunks")
        service.rows("ALTER TABLE log_chunks SET TABLESPACE small")
        with service.faults.holding(FaultPoint.EPOCH, passes=BATCHES * 4 + 1) as held:
            job_id = service.submit(SPEC)
            runner = held()
            disk.fill()
            os.kill(runner, signal.SIGKILL)  # the next attempt says where it goes on
        service.wait_for_epoch(job_id, SPEC["training"]["epochs"])
        assert service.job(job_id)["status"] == "running"
        assert service.rows("SELECT count(*) AS n FROM log_chunks") == [{"n": 0}]
        disk.free()
        assert service.wait_for_end(job_id)["status"] == "succeeded"
        assert "Attempt 2 goes on after epoch 4." in service.http.get(f"/jobs/{job_id}/logs").text
        service.rows("ALTER TABLE log_chunks SET TABLESPACE pg_default")
        service.rows("DROP TABLESPACE small")
    require_invariants(service, [job_id], undisturbed=undisturbed)


def test_a_data_set_that_cannot_be_cached_is_said_to_lack_space_and_leaves_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "datasets") as disk:
        digits = NamedDataset(name="digits", resize=128)  # 29 MB
        with pytest.raises(DiskFull, match=r"No space is left under .* for the data set digits"):
            load_images(digits, root=disk.path)
        assert [path.name for path in (disk.path / ".cache").iterdir()] == ["digits.lock"]
