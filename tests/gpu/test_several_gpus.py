"""Training on two GPUs at once: the numbers of one, batch norm's among them."""

import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch

from models.result import EpochMetrics
from models.spec import JobSpec
from worker.forkserver import forkserver
from worker.gpus import usable_gpus
from worker.messages import Assignment, EpochEnded, Event, Succeeded
from worker.runner_process import RunnerProcess

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two GPUs on this machine")

SECONDS = 300
SPEC: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "network": {"name": "cnn", "channels": [16, 32], "hidden": [32], "batch_norm": "before_activation"},
    "training": {"epochs": 3, "batch_size": 100, "seed": 7},
    "resources": {"device": "cuda"},
}


def run(spec: JobSpec, gpus: list[str], artifacts: Path, datasets: Path) -> tuple[list[EpochMetrics], Succeeded]:
    assignment = Assignment(
        job_id=uuid4(),
        attempt=1,
        spec=spec,
        artifacts=artifacts / str(len(gpus)),
        datasets=datasets,
        download=False,
        checkpoints=[],
        threads=2,
        gpus=gpus,
        git_commit=None,
    )
    runner = RunnerProcess(forkserver(), assignment)
    runner.set_deadline("test", time.monotonic() + SECONDS)
    events: list[Event] = []
    ended = False
    try:
        while not ended:
            ended = runner.wait(0.25)
            events += runner.take_events()
    finally:
        runner.kill()
    assert isinstance(events[-1], Succeeded), f"{events[-1]} {runner.take_output()}"
    return [event.metrics for event in events if isinstance(event, EpochEnded)], events[-1]


def test_two_gpus_give_the_losses_of_one_also_with_batch_norm(tmp_path: Path, digits_cache: Path) -> None:
    spec = JobSpec.model_validate(SPEC).resolved()
    uuids = [gpu.uuid for gpu in usable_gpus()]
    alone, _ = run(spec, uuids[:1], tmp_path, digits_cache)
    together, succeeded = run(spec, uuids[:2], tmp_path, digits_cache)
    for own, other in zip(together, alone, strict=True):
        # Kernels differ with the size of the part, and so does the order of their sums; TF32 is off.
        assert own.train_loss == pytest.approx(other.train_loss, rel=1e-3)
        assert own.validation_loss == pytest.approx(other.validation_loss, rel=1e-3)
    assert succeeded.result["environment"]["gpus"] == 2
