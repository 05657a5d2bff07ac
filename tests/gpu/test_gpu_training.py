"""Training on a GPU: no waiting for the device within an epoch, and the numbers of steps made one by one."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.datasets import DATASETS
from models.spec import JobSpec
from models.training_spec import TrainingSpec
from worker.training.data import BatchedSplit, DeviceSplit, Part
from worker.training.graphs import GraphStep, Recorder, make_step
from worker.training.loop import fit, train_one_epoch
from worker.training.precision import prepare_precision
from worker.training.state import TrainState
from worker.training.step import EagerStep, Step
from worker.training.streaming import StreamedSplit

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU on this machine")

EPOCHS = 3
AUGMENTATION: dict[str, Any] = {
    "random_crop": {"padding": 4},
    "horizontal_flip": 0.5,
    "color_jitter": {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2},
    "cutout": {"size": 8},
}
TRAININGS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9}},
    "adam": {"optimizer": {"name": "adam"}, "l2_penalty": 1e-4},
    "rmsprop": {"optimizer": {"name": "rmsprop", "learning_rate": 0.001}},
    "schedule": {"schedule": {"name": "cosine", "warmup_epochs": 1}, "gradient_clip_norm": 0.5},
    "augmentation": {"augmentation": AUGMENTATION},
    "bfloat16": {"precision": "bfloat16"},
}


@pytest.fixture(scope="module")
def gpu() -> torch.device:
    return torch.device("cuda")


@pytest.fixture(scope="module")
def arrays() -> tuple[np.ndarray, np.ndarray]:
    noise = np.random.default_rng(0)
    labels = noise.integers(0, 10, 1_000)
    patterns = noise.integers(0, 256, (10, 3, 32, 32))
    images = (patterns[labels] + noise.integers(0, 256, (1_000, 3, 32, 32))) // 2
    return images.astype(np.uint8), labels


@pytest.fixture(scope="module")
def train(arrays: tuple[np.ndarray, np.ndarray], gpu: torch.device) -> DeviceSplit:
    facts = DATASETS["cifar10"]
    return DeviceSplit(*arrays, mean=facts.mean, std=facts.std, device=gpu)


@pytest.fixture(scope="module")
def streamed(arrays: tuple[np.ndarray, np.ndarray], gpu: torch.device) -> StreamedSplit:
    facts = DATASETS["cifar10"]
    return StreamedSplit(*arrays, mean=facts.mean, std=facts.std, device=gpu)


def spec_of(network: dict[str, Any] | None = None, **training: Any) -> JobSpec:
    spec = {
        "dataset": {"name": "cifar10"},
        "network": network or {"name": "cnn", "channels": [8, 8], "hidden": [16]},
        "training": {"seed": 7, "epochs": EPOCHS, "batch_size": 64} | training,
    }
    return JobSpec.model_validate(spec).resolved()


def fresh(spec: JobSpec, gpu: torch.device) -> TrainState:
    return TrainState.fresh(spec, gpu, weights=Path("no-weights"))


def losses(
    spec: JobSpec, gpu: torch.device, train: BatchedSplit, make: Callable[..., Step] = make_step
) -> tuple[list[float], TrainState]:
    state = fresh(spec, gpu)
    step = make(state, spec.training, train)
    return [train_one_epoch(state, spec.training, train, epoch, step)[0] for epoch in range(1, EPOCHS + 1)], state


@pytest.mark.parametrize("name", TRAININGS)
def test_graph_and_eager_give_the_same_losses(name: str, gpu: torch.device, train: DeviceSplit) -> None:
    spec = spec_of(**TRAININGS[name])
    eager, eager_state = losses(spec, gpu, train, EagerStep)
    graph, graph_state = losses(spec, gpu, train)
    assert isinstance(make_step(fresh(spec, gpu), spec.training, train), GraphStep)
    assert graph == pytest.approx(eager, abs=1e-3 if name == "bfloat16" else 1e-4)
    assert eager[0] - eager[-1] > 1e-2, "it did learn"
    saved, same = eager_state.state_dict()["optimizer"], graph_state.state_dict()["optimizer"]
    assert [set(group) for group in saved["param_groups"]] == [set(group) for group in same["param_groups"]]
    assert all(type(group["lr"]) is float for group in same["param_groups"])


def test_dropout_draws_in_a_graph_what_it_draws_step_by_step(gpu: torch.device, train: DeviceSplit) -> None:
    spec = spec_of({"name": "mlp", "hidden": [64], "dropout": 0.5})
    assert losses(spec, gpu, train)[0] == pytest.approx(losses(spec, gpu, train, EagerStep)[0], abs=1e-4)


@pytest.mark.parametrize("name", TRAININGS)
@pytest.mark.parametrize("kind", ["train", "streamed"])
def test_the_host_waits_for_the_device_once_in_an_epoch(
    name: str, kind: str, gpu: torch.device, request: pytest.FixtureRequest
) -> None:
    split: BatchedSplit = request.getfixturevalue(kind)
    spec = spec_of(**TRAININGS[name])
    state = fresh(spec, gpu)
    step = make_step(state, spec.training, split)
    train_one_epoch(state, spec.training, split, 1, step)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            train_one_epoch(state, spec.training, split, 2, step)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [str(warning.message) for warning in seen if "called a synchronizing" in str(warning.message)]
    assert len(waits) == 1, "the figures of all steps are read once, at the end"


def test_a_streamed_split_gives_the_losses_of_one_on_the_device(
    gpu: torch.device, train: DeviceSplit, streamed: StreamedSplit
) -> None:
    spec = spec_of(augmentation=AUGMENTATION, deterministic=True)
    prepare_precision(spec.training)
    try:
        assert losses(spec, gpu, streamed)[0] == losses(spec, gpu, train)[0]
    finally:
        prepare_precision(spec_of().training)


def test_a_resumed_training_goes_on_as_if_it_had_never_stopped(gpu: torch.device, train: DeviceSplit) -> None:
    spec = spec_of(optimizer={"name": "adam"}, schedule={"name": "one_cycle"}, augmentation=AUGMENTATION)
    whole = [metrics.train_loss for metrics in fit(fresh(spec, gpu), spec.training, train, None)]
    first = fresh(spec, gpu)
    begun = fit(first, spec.training, train, None)
    next(begun)
    second = fresh(spec, gpu)
    second.load_state_dict(first.state_dict())
    resumed = [metrics.train_loss for metrics in fit(second, spec.training, train, None)]
    assert resumed == pytest.approx(whole[1:], abs=1e-4)


class Waiting(EagerStep):
    """A step that reads a figure from the device, which no graph can repeat."""

    def descend(self, part: Part) -> Tensor:
        figures = super().descend(part)
        assert figures.sum().item() > 0
        return figures


def test_what_no_graph_can_be_made_of_runs_step_by_step(
    gpu: torch.device, train: DeviceSplit, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(state: TrainState, training: TrainingSpec, split: BatchedSplit) -> Step:
        return GraphStep(Waiting(state, training, split), state, training, Recorder(gpu, []))

    spec = spec_of()
    assert losses(spec, gpu, train, refused)[0] == pytest.approx(losses(spec, gpu, train, EagerStep)[0], abs=1e-4)
    (said,) = caplog.messages
    assert "no CUDA graph could be made of them" in said
