"""Whatever is trained, and whenever it is killed: what goes on from checkpoints ends as what was never stopped."""

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from harness.training import MakeJob, MakeSplit
from models.spec import JobSpec
from worker import checkpoints
from worker.messages import SavedCheckpoint
from worker.training.data import DeviceSplit, Part
from worker.training.replicas import Replicas
from worker.training.splits import Splits

Exactly = Callable[[Any], Any]

CPU = torch.device("cpu")
EPOCHS = 4
PARTS = 4  # of an epoch of one replica: three batches, and one in which it is validated
RATE = {"learning_rate": 0.01}
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"name": "mlp", "hidden": [12]},
    "dropout": {"name": "mlp", "hidden": [12], "dropout": 0.3},
    "cnn": {"name": "cnn", "channels": [4], "hidden": [8]},
    "statistics": {
        "name": "sequential",
        "layers": [
            {"kind": "conv2d", "out_channels": 4, "kernel_size": 3},
            {"kind": "batch_norm2d"},
            {"kind": "relu"},
            {"kind": "dropout2d", "probability": 0.2},
            {"kind": "flatten"},
            {"kind": "linear", "out_features": 10},
        ],
    },
}
OPTIMIZERS = st.sampled_from(
    [
        RATE,
        RATE | {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-3},
        RATE | {"name": "adam"},
        RATE | {"name": "adamw"},
        RATE | {"name": "rmsprop", "momentum": 0.5},
    ]
)
SCHEDULES = st.sampled_from(
    [
        {"name": "constant", "warmup_epochs": 1},
        {"name": "step", "every": 2, "factor": 0.5},
        {"name": "multi_step", "after": [1, 3]},
        {"name": "exponential", "factor": 0.8},
        {"name": "cosine", "warmup_epochs": 1, "final_fraction": 0.1},
        {"name": "one_cycle"},
    ]
)
AUGMENTATIONS = st.sampled_from(
    [
        None,
        {"horizontal_flip": 0.5},
        {"random_crop": {"padding": 1}, "cutout": {"size": 3}, "color_jitter": {"brightness": 0.2, "contrast": 0.2}},
    ]
)
# The second ends the training before its last epoch: no epoch improves by so much.
STOPPINGS = st.sampled_from(
    [None, {"metric": "train_loss", "patience": 1, "min_delta": 50.0}, {"metric": "validation_accuracy", "patience": 2}]
)
TRAININGS = st.fixed_dictionaries(
    {
        "optimizer": OPTIMIZERS,
        "schedule": SCHEDULES,
        "augmentation": AUGMENTATIONS,
        "early_stopping": STOPPINGS,
        "replicas": st.integers(1, 3),
        "precision": st.sampled_from(["float32", "bfloat16", "float16"]),
        "l2_penalty": st.sampled_from([0.0, 1e-4]),
        "label_smoothing": st.sampled_from([0.0, 0.1]),
        "gradient_clip_norm": st.sampled_from([None, 0.5]),
        "evaluate_before_training": st.booleans(),
    }
).map(lambda training: training | ({"replicas": 1} if training["early_stopping"] else {}))
# How many batches of each replica an attempt sees before it is killed: within an epoch, or while it is validated.
KILLS = st.lists(st.integers(0, PARTS * EPOCHS - 1), min_size=1, max_size=3)
STACKED = {
    "optimizer": RATE | {"name": "adam"},
    "schedule": {"name": "one_cycle"},
    "replicas": 3,
    "evaluate_before_training": True,
}


class Killed(Exception):
    """The process is gone: nothing of it is left but its files."""


@contextmanager
def killed_after(parts: int | None) -> Iterator[None]:
    """Raise Killed inside where a batch more than so many is read; None: never."""
    original = DeviceSplit.parts
    seen = 0

    def counted(split: DeviceSplit, batches: Sequence[torch.Tensor]) -> Iterator[Part]:
        nonlocal seen
        for part in original(split, batches):
            if seen == parts:
                raise Killed
            seen += 1
            yield part

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DeviceSplit, "parts", counted)
        yield


class Training:
    """A spec with its data, of which each attempt begins in what stands for a process of its own."""

    def __init__(self, spec: JobSpec, splits: Sequence[Splits], artifacts: Path, *, stacked: bool) -> None:
        self.spec, self.splits, self.artifacts, self.stacked = spec, splits, artifacts, stacked
        self.saved: list[SavedCheckpoint] = []  # newest first

    def attempt(self, number: int) -> dict[str, Any]:
        """Train from the newest checkpoint to the end, with one after each epoch; return the state at the end."""
        torch.manual_seed(random.randrange(2**32))  # of a process that has drawn other numbers before
        replicas = Replicas.fresh(self.spec, CPU, weights=Path("no-weights"), vectorise_on_cpu=self.stacked)
        torch.rand(number)
        found = checkpoints.load_newest(self.artifacts, self.saved)
        if found is not None:
            replicas.load_state_dict(found[0])
        for metrics in replicas.fit(self.spec.training, self.splits):
            state = replicas.state_dict()
            self.saved.insert(0, checkpoints.save(self.artifacts, state, attempt=number, epoch=metrics.epoch))
        return replicas.state_dict()


@settings(max_examples=40)
@given(
    network=st.sampled_from(sorted(NETWORKS)),
    training=TRAININGS,
    stacked=st.booleans(),
    kills=KILLS,
    seed=st.integers(0, 2**31),
)
@example(network="mlp", training=STACKED, stacked=True, kills=[5, 0, 17], seed=1)
@example(network="statistics", training={"precision": "float16"}, stacked=False, kills=[3, 4, 7], seed=2)
def test_a_training_that_is_killed_again_and_again_ends_as_the_unbroken_one(
    pictures: MakeSplit,
    job: MakeJob,
    exactly: Exactly,
    *,
    network: str,
    training: dict[str, Any],
    stacked: bool,
    kills: list[int],
    seed: int,
) -> None:
    spec = job(NETWORKS[network], epochs=EPOCHS, batch_size=16, **training | {"seed": seed})
    splits = [Splits(pictures(40), pictures(20, seed=1), pictures(20, seed=2))] * spec.training.replicas
    with tempfile.TemporaryDirectory() as folder:
        unbroken = Training(spec, splits, Path(folder) / "unbroken", stacked=stacked)
        expected = exactly(unbroken.attempt(1))
        broken = Training(spec, splits, Path(folder) / "broken", stacked=stacked)
        for number, parts in enumerate(kills, start=1):
            with killed_after(parts * spec.training.replicas):
                try:
                    broken.attempt(number)
                except Killed:
                    event(f"killed after {len(broken.saved)} checkpoints")
        with killed_after(None):
            ended = broken.attempt(len(kills) + 1)
        assert exactly(ended) == expected
        of_epochs = {checkpoint.epoch for checkpoint in broken.saved}
        assert [checkpoint.epoch for checkpoint in broken.saved] == sorted(of_epochs, reverse=True)
        assert of_epochs == {checkpoint.epoch for checkpoint in unbroken.saved}
