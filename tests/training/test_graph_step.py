"""Steps that are recorded once and repeated, with a recorder that works on a CPU in place of CUDA's graphs."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.training import Fresh, MakeJob, MakeSplit
from models.spec import JobSpec
from worker.training.data import DeviceSplit
from worker.training.graphs import GraphStep, Recorder, make_step
from worker.training.loop import train_one_epoch
from worker.training.state import TrainState
from worker.training.step import EagerStep

NETWORK: dict[str, Any] = {"name": "cnn", "channels": [4], "hidden": [8], "dropout": 0.2}
SAMPLES, BATCH_SIZE, EPOCHS = 118, 16, 2  # seven whole batches and a smaller one
WARM_UP_STEPS = 3


class Rerun(Recorder):
    """Repeats a recording by running it once more, on the tensors that it was made with."""

    def __init__(self, refusal: str | None = None) -> None:
        self.refusal = refusal
        self.warm_ups = self.recordings = self.replays = 0

    def warm_up(self, run: Callable[[], Tensor]) -> Tensor:
        self.warm_ups += 1
        return run()

    def record(self, run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        self.recordings += 1
        if self.refusal is not None:
            raise RuntimeError(self.refusal)
        result = torch.full((3,), torch.nan)

        def replay() -> None:
            self.replays += 1
            result.copy_(run())

        return result, replay


@pytest.fixture(params=["sgd", "adam", "everything"])
def spec(request: pytest.FixtureRequest, job: MakeJob) -> JobSpec:
    training: dict[str, Any] = {"optimizer": {"name": "sgd", "momentum": 0.9}}
    if request.param == "adam":
        training = {"optimizer": {"name": "adam", "learning_rate": 0.01}}
    if request.param == "everything":
        training = {
            "schedule": {"name": "cosine", "warmup_epochs": 1},
            "l2_penalty": 1e-3,
            "gradient_clip_norm": 0.5,
            "label_smoothing": 0.1,
            "augmentation": {"random_crop": {"padding": 1}, "horizontal_flip": 0.5},
        }
    return job(NETWORK, batch_size=BATCH_SIZE, epochs=EPOCHS, **training)


def train(state: TrainState, spec: JobSpec, split: DeviceSplit, recorder: Recorder | None) -> list[Any]:
    step = EagerStep(state, spec.training, split)
    steps = step if recorder is None else GraphStep(step, state, spec.training, recorder)
    return [train_one_epoch(state, spec.training, split, epoch, steps) for epoch in range(1, EPOCHS + 1)]


def test_a_recorded_step_gives_the_losses_and_the_state_of_an_eager_one(
    spec: JobSpec, pictures: MakeSplit, fresh: Fresh
) -> None:
    split, recorder = pictures(SAMPLES), Rerun()
    eager = fresh(spec)
    expected = train(eager, spec, split, None)
    recorded = fresh(spec)
    found = train(recorded, spec, split, recorder)
    assert (recorder.warm_ups, recorder.recordings) == (WARM_UP_STEPS, 1)
    assert recorder.replays == EPOCHS * (SAMPLES // BATCH_SIZE) - WARM_UP_STEPS
    # A rate that changes is float32 in a recording.
    tolerance = 0 if spec.training.schedule.name == "constant" else 1e-6
    for epoch, same in zip(expected, found, strict=True):
        assert same == pytest.approx(epoch, rel=tolerance, abs=tolerance)
    assert expected[0] != expected[1], "it did learn"
    saved, same_saved = eager.state_dict(), recorded.state_dict()
    torch.testing.assert_close(same_saved["network"], saved["network"], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(same_saved["optimizer"], saved["optimizer"], rtol=tolerance, atol=tolerance)
    (group,) = same_saved["optimizer"]["param_groups"]
    assert type(group["lr"]) is float, "a checkpoint does not tell how its steps were made"
    assert all(torch.equal(same_saved["generators"][name], state) for name, state in saved["generators"].items())


def test_where_a_recording_is_refused_every_step_is_eager_and_the_log_says_why(
    spec: JobSpec, pictures: MakeSplit, fresh: Fresh, caplog: pytest.LogCaptureFixture
) -> None:
    split, recorder = pictures(SAMPLES), Rerun("operation not permitted when stream is capturing")
    with caplog.at_level(logging.WARNING):
        found = train(fresh(spec), spec, split, recorder)
    expected = train(fresh(spec), spec, split, None)
    tolerance = 0 if spec.training.schedule.name == "constant" else 1e-6
    for epoch, same in zip(expected, found, strict=True):
        assert same == pytest.approx(epoch, rel=tolerance, abs=tolerance)
    assert recorder.recordings == 1, "it is not tried again"
    (said,) = caplog.messages
    assert said.endswith("no CUDA graph could be made of them: operation not permitted when stream is capturing")


def test_on_a_cpu_steps_are_eager(spec: JobSpec, pictures: MakeSplit, fresh: Fresh) -> None:
    assert isinstance(make_step(fresh(spec), spec.training, pictures(20)), EagerStep)
