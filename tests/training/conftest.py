"""What the tests of the training share: job specs, states, and small splits that a network can learn."""

import multiprocessing
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import torch

from models.datasets import DATASETS
from models.result import Result
from models.spec import JobSpec
from worker.messages import Assignment
from worker.other_ranks import OtherRanks
from worker.runner import _Run
from worker.stopwatch import Stopwatch
from worker.training.data import DeviceSplit
from worker.training.state import TrainState

Shape = tuple[int, int, int]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Compute in one thread: the operations here are so small that a second would only wait for a busy core."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pictures() -> Callable[..., DeviceSplit]:
    """Make a split of so many pictures of ten classes: one pattern per class under noise, the same for every seed."""

    def make(samples: int, *, shape: Shape = (1, 8, 8), seed: int = 0) -> DeviceSplit:
        noise = np.random.default_rng(seed)
        labels = noise.integers(0, 10, samples)
        patterns = np.random.default_rng(99).integers(0, 256, (10, *shape))
        images = (patterns[labels] + noise.integers(0, 256, (samples, *shape))) // 2
        facts = DATASETS["cifar10" if shape[0] == 3 else "digits"]
        return DeviceSplit(images.astype(np.uint8), labels, mean=facts.mean, std=facts.std, device=torch.device("cpu"))

    return make


@pytest.fixture(scope="session")
def rows() -> Callable[..., DeviceSplit]:
    """Make a split of so many rows of four columns, and a target that follows from them but for a little noise."""

    def make(samples: int, *, seed: int = 0) -> DeviceSplit:
        noise = np.random.default_rng(seed)
        columns = noise.normal(size=(samples, 4)).astype(np.float32)
        target = np.tanh(columns @ np.array([0.5, -1.0, 0.25, 0.0])) + 0.05 * noise.normal(size=samples)
        return DeviceSplit(columns, target.astype(np.float32), device=torch.device("cpu"))

    return make


@pytest.fixture(scope="session")
def drawing_network() -> dict[str, Any]:
    """Describe a small network for pictures that draws random numbers and keeps statistics while it is trained."""
    layers: list[dict[str, Any]] = [
        {"kind": "conv2d", "out_channels": 6, "kernel_size": 3},
        {"kind": "batch_norm2d"},
        {"kind": "relu"},
        {"kind": "dropout2d", "probability": 0.2},
        {"kind": "max_pool2d"},
        {"kind": "flatten"},
        {"kind": "linear", "out_features": 16},
        {"kind": "tanh"},
        {"kind": "dropout", "probability": 0.4},
        {"kind": "linear", "out_features": 10},
    ]
    return {"name": "sequential", "layers": layers}


@pytest.fixture(scope="session")
def exactly() -> Callable[[Any], Any]:
    """How two saved states are compared: everything in them but the times, with each tensor as its bytes."""

    def flat(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return (tuple(value.shape), str(value.dtype), value.detach().contiguous().numpy().tobytes())
        if isinstance(value, dict):
            return {key: flat(item) for key, item in value.items() if key not in {"seconds", "train_seconds"}}
        return [flat(item) for item in value] if isinstance(value, list) else value

    return flat


@pytest.fixture(scope="session")
def job() -> Callable[..., JobSpec]:
    """Make a resolved spec with seed 7; what is named beyond the network is a field of its training."""

    def make(
        network: dict[str, Any],
        *,
        dataset: str | dict[str, Any] = "digits",
        learning_rate: float = 0.05,
        optimizer: dict[str, Any] | None = None,
        **training: Any,
    ) -> JobSpec:
        optimizer = {"learning_rate": learning_rate} | (optimizer or {})
        spec = {
            "dataset": {"name": dataset} if isinstance(dataset, str) else dataset,
            "network": network,
            "training": {"seed": 7, "optimizer": optimizer} | training,
        }
        return JobSpec.model_validate(spec).resolved()

    return make


@pytest.fixture(scope="session")
def fresh() -> Callable[[JobSpec], TrainState]:
    """Make the state in which the training of a spec begins, on the CPU; no file of weights is there."""

    def make(spec: JobSpec) -> TrainState:
        return TrainState.fresh(spec, torch.device("cpu"), weights=Path("no-weights"))

    return make


@pytest.fixture
def result_of(tmp_path: Path, digits_cache: Path) -> Callable[..., Result]:
    """Run one attempt at a job as the runner does, in this process, and return its result."""

    def run(spec: JobSpec, *, data_limit_bytes: int | None = None) -> Result:
        task = Assignment(
            job_id=uuid4(),
            attempt=1,
            spec=spec,
            artifacts=tmp_path,
            datasets=digits_cache,
            download=False,
            checkpoints=[],
            threads=1,
            data_limit_bytes=data_limit_bytes,
            gpus=[],
            git_commit=None,
        )
        told, tell = multiprocessing.Pipe(duplex=False)
        with told, tell:
            outcome = _Run(task, tell, threading.Event(), Stopwatch(time.monotonic()), OtherRanks()).outcome()
        assert outcome is not None
        return Result.model_validate(outcome.result)

    return run
