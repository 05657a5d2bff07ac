"""Checkpoints that came to harm while their job was paused: the newest sound one is used, and everybody is told."""

import hashlib
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.figures import Figures, figures_of
from harness.invariants import require_invariants
from models.faults import FaultPoint

SPEC: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "network": {"name": "mlp", "hidden": [32], "dropout": 0.2},
    "training": {
        "epochs": 9,
        "batch_size": 479,
        "seed": 5,
        "optimizer": {"name": "adam", "learning_rate": 0.01},
    },
}
BATCHES = 3  # an epoch
PAUSED_AFTER = 6  # epochs, or one later: the runner hears of it in between


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    return start_service(fault_points=True, poll_seconds=0.5)


@pytest.fixture(scope="module")
def undisturbed(service: Any) -> Figures:
    job_id = service.submit(SPEC)
    assert service.wait_for_end(job_id)["status"] == "succeeded"
    return figures_of(service, job_id)


class Paused:
    """A job that was paused after some epochs, and its checkpoints, the newest first."""

    def __init__(self, service: Any) -> None:
        with service.faults.holding(FaultPoint.EPOCH, passes=BATCHES * (PAUSED_AFTER - 1) + 1) as held:
            self.id: str = service.submit(SPEC)
            held()
            assert service.http.post(f"/jobs/{self.id}/pause").status_code == 202
            self._wait_until_the_runner_is_asked(service)
        service.wait_for(self.id, lambda job: job["status"] == "paused")
        self.folder: Path = service.stack.artifacts / self.id
        query = "SELECT epoch, checkpoint FROM epochs WHERE job_id = %s ORDER BY epoch DESC"
        rows = service.rows(query, self.id)
        self.epoch = rows[0]["epoch"]
        self.files = [self.folder / row["checkpoint"] for row in rows if (self.folder / row["checkpoint"]).exists()]
        self._service = service

    def _wait_until_the_runner_is_asked(self, service: Any) -> None:
        """Return when the worker tells the runner, so that it leaves after the epoch in which it is held."""
        deadline = time.monotonic() + 30
        while not any("event=runner_asked_to_stop" in line for line in self._lines(service)):
            assert time.monotonic() < deadline, "the runner was not asked to stop"
            time.sleep(0.02)

    def _lines(self, service: Any) -> list[str]:
        """Return what the worker logs of this job."""
        return [line for line in service.log("worker-1").splitlines() if self.id in line]

    def resume_and_end(self) -> str:
        """Let it go on to its end, and return its log."""
        assert self._service.http.post(f"/jobs/{self.id}/resume").status_code == 202
        job = self._service.wait_for_end(self.id)
        assert job["status"] == "succeeded", job["message"]
        log: str = self._service.http.get(f"/jobs/{self.id}/logs").text
        return log

    def warnings(self) -> list[str]:
        """Return what the worker's own log says of skipped checkpoints of this job."""
        return [line for line in self._lines(self._service) if "event=checkpoint_skipped" in line]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x04
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [truncate, flip_a_bit, Path.unlink], ids=["truncated", "bit-flipped", "missing"])
def test_a_newest_checkpoint_that_came_to_harm_is_skipped_with_a_warning_for_the_one_before(
    service: Any, undisturbed: Figures, harm: Callable[[Path], None]
) -> None:
    job = Paused(service)
    harm(job.files[0])
    log = job.resume_and_end()
    assert f"Checkpoint {job.files[0].name} is skipped: " in log
    assert f"goes on after epoch {job.epoch - 1}." in log
    (warning,) = job.warnings()
    assert f"file={job.files[0].name}" in warning
    assert "level=warning" in warning
    assert not job.files[0].exists(), "what is damaged goes once its epoch is recorded anew"
    require_invariants(service, [job.id], undisturbed=undisturbed)


def test_without_any_sound_checkpoint_the_training_begins_anew(service: Any, undisturbed: Figures) -> None:
    job = Paused(service)
    assert len(job.files) >= 2
    harms: list[Callable[[Path], None]] = [flip_a_bit, truncate, Path.unlink]
    for harm, file in zip(cycle(harms), job.files, strict=False):
        harm(file)
    log = job.resume_and_end()
    assert log.count(" is skipped: ") == len(job.files)
    assert "No checkpoint can be used: the training begins anew." in log
    assert len(job.warnings()) == len(job.files)
    epochs = service.rows("SELECT DISTINCT attempt FROM epochs WHERE job_id = %s", job.id)
    assert epochs == [{"attempt": 2}], "nothing of the first attempt is left"
    require_invariants(service, [job.id], undisturbed=undisturbed)


def test_a_checkpoint_of_another_attempt_is_not_used_though_its_checksum_is_the_recorded_one(
    service: Any, undisturbed: Figures
) -> None:
    job = Paused(service)
    loaded = torch.load(job.files[0], weights_only=True)
    torch.save(loaded | {"attempt": 7}, job.files[0])
    digest = hashlib.sha256(job.files[0].read_bytes()).hexdigest()
    service.rows(
        "UPDATE epochs SET checkpoint_sha256 = %s WHERE checkpoint = %s AND job_id = %s",
        digest,
        job.files[0].name,
        job.id,
    )
    log = job.resume_and_end()
    assert f"Checkpoint {job.files[0].name} is skipped: it is of attempt 7, epoch {job.epoch}." in log
    require_invariants(service, [job.id], undisturbed=undisturbed)
