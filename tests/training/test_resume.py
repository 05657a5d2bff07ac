"""Going on from a checkpoint: the same numbers, to the bit, as a run that was never stopped."""

import hashlib
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.training import Fresh, MakeJob, MakeSplit
from models.spec import JobSpec
from worker import checkpoints
from worker.kept_checkpoints import KeptCheckpoints
from worker.messages import CHECKPOINTS_KEPT, SavedCheckpoint
from worker.training.data import DeviceSplit
from worker.training.loop import fit
from worker.training.state import TrainState

Exactly = Callable[[Any], Any]
Plain = Callable[[TrainState], dict[str, Any]]

EPOCHS = 5


@dataclass
class Workplace:
    """A spec with its data, and the directory in which its checkpoints are kept."""

    spec: JobSpec
    train: DeviceSplit
    validation: DeviceSplit
    artifacts: Path
    fresh: Fresh

    def train_to(self, state: TrainState, epoch: int, *, attempt: int) -> list[SavedCheckpoint]:
        """Train on to the end of `epoch`, with a checkpoint after each; the newest comes first.

        The iteration is left there, but ends by itself after the last epoch.
        """
        saved: list[SavedCheckpoint] = []
        for metrics in fit(state, self.spec.training, self.train, self.validation):
            saved.append(checkpoints.save(self.artifacts, state.state_dict(), attempt=attempt, epoch=metrics.epoch))
            if metrics.epoch == epoch < EPOCHS:
                break
        return saved[::-1]

    def resume(self, candidates: list[SavedCheckpoint]) -> TrainState:
        """Begin as another process would, with other random numbers drawn before, and take over what is on disk."""
        torch.manual_seed(random.randrange(2**32))
        torch.rand(1_000)
        state = self.fresh(self.spec)
        torch.rand(17)
        found = checkpoints.load_newest(self.artifacts, candidates)
        assert found is not None
        state.load_state_dict(found[0])
        assert len(state.history) == found[1].epoch
        return state


PLAIN: dict[str, Any] = {"optimizer": {"momentum": 0.9, "weight_decay": 1e-4}, "l2_penalty": 1e-4}
EVERYTHING: dict[str, Any] = {
    "optimizer": {"name": "adam", "learning_rate": 0.01},
    "schedule": {"name": "one_cycle"},
    "precision": "float16",
    "label_smoothing": 0.1,
    "gradient_clip_norm": 0.5,
    "early_stopping": {"metric": "train_loss", "patience": 10, "min_delta": 0.05},
    "augmentation": {
        "random_crop": {"padding": 1},
        "horizontal_flip": 0.5,
        "color_jitter": {"brightness": 0.2, "contrast": 0.2},
        "cutout": {"size": 3},
    },
}


@pytest.fixture(scope="module", params=[PLAIN, EVERYTHING], ids=["plain", "everything"])
def spec(request: pytest.FixtureRequest, job: MakeJob, drawing_network: dict[str, Any]) -> JobSpec:
    return job(drawing_network, epochs=EPOCHS, batch_size=24, **request.param)


@pytest.fixture
def workplace(tmp_path: Path, pictures: MakeSplit, spec: JobSpec, fresh: Fresh) -> Workplace:
    return Workplace(spec, pictures(100), pictures(30, seed=1), tmp_path / "artifacts", fresh)


@pytest.fixture(scope="module")
def plain(exactly: Exactly) -> Plain:
    """How a state is compared."""
    return lambda state: exactly(state.state_dict())


@pytest.fixture(scope="module")
def unbroken(pictures: MakeSplit, spec: JobSpec, fresh: Fresh, plain: Plain) -> dict[str, Any]:
    state = fresh(spec)
    assert len(list(fit(state, spec.training, pictures(100), pictures(30, seed=1)))) == EPOCHS
    return plain(state)


@pytest.mark.parametrize("spec", [PLAIN], indirect=True)
def test_what_is_compared_covers_weights_momentum_statistics_generators_and_history(
    unbroken: dict[str, Any],
) -> None:
    assert set(unbroken) == {
        "network",
        "optimizer",
        "scaler",
        "generators",
        "history",
        "best",
        "stopped_early",
    }
    assert {"0.weight", "0.bias", "1.running_mean", "1.running_var", "9.weight"} <= set(unbroken["network"])
    assert all("momentum_buffer" in buffers for buffers in unbroken["optimizer"]["state"].values())
    assert len(unbroken["optimizer"]["state"]) == 8
    assert set(unbroken["generators"]) == {"sampler", "cpu", "augmenter_cpu"}
    assert [metrics["epoch"] for metrics in unbroken["history"]] == [1, 2, 3, 4, 5]
    assert len({metrics["train_loss"] for metrics in unbroken["history"]}) == EPOCHS


@pytest.mark.parametrize("spec", [EVERYTHING], indirect=True)
def test_what_is_compared_covers_moments_loss_scaling_draws_and_the_best_epoch(
    unbroken: dict[str, Any], spec: JobSpec, fresh: Fresh, plain: Plain
) -> None:
    assert all({"step", "exp_avg", "exp_avg_sq"} == set(buffers) for buffers in unbroken["optimizer"]["state"].values())
    untouched = plain(fresh(spec))
    assert unbroken["scaler"] != untouched["scaler"]
    assert unbroken["generators"]["augmenter_cpu"] != untouched["generators"]["augmenter_cpu"]
    assert 1 < unbroken["best"]["epoch"] < EPOCHS
    assert unbroken["network"] == unbroken["best"]["weights"]
    assert len({metrics["learning_rate"] for metrics in unbroken["history"]}) == EPOCHS


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
def test_a_checkpoint_of_a_gpu_goes_on_with_the_options_of_a_cpu(
    job: MakeJob, fresh: Fresh, pictures: MakeSplit, optimizer: str, drawing_network: dict[str, Any]
) -> None:
    spec = job(drawing_network, epochs=2, optimizer={"name": optimizer})
    there, here = fresh(spec), fresh(spec)
    next(fit(there, spec.training, pictures(100), None))
    saved = there.state_dict()
    for group in saved["optimizer"]["param_groups"]:
        group |= {option: True for option in ("fused", "capturable") if option in group}
    here.load_state_dict(saved)
    assert not any(group.get("fused") or group.get("capturable") for group in here.optimizer.param_groups)
    assert [metrics.epoch for metrics in fit(here, spec.training, pictures(100), None)] == [2]


@pytest.mark.parametrize("stop", range(1, EPOCHS + 1))
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    workplace: Workplace, unbroken: dict[str, Any], stop: int, plain: Plain
) -> None:
    saved = workplace.train_to(workplace.fresh(workplace.spec), stop, attempt=1)
    state = workplace.resume(saved)
    workplace.train_to(state, EPOCHS, attempt=2)
    assert plain(state) == unbroken


def test_a_run_that_was_stopped_after_every_epoch_ends_as_one_that_was_not(
    workplace: Workplace, unbroken: dict[str, Any], plain: Plain
) -> None:
    state = workplace.fresh(workplace.spec)
    for epoch in range(1, EPOCHS + 1):
        state = workplace.resume(workplace.train_to(state, epoch, attempt=epoch))
    workplace.train_to(state, EPOCHS, attempt=EPOCHS + 1)
    assert plain(state) == unbroken


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("harm", [damage, truncate, Path.unlink], ids=["damaged", "truncated", "missing"])
def test_a_newest_checkpoint_that_cannot_be_trusted_is_passed_over_for_the_one_before(
    workplace: Workplace,
    unbroken: dict[str, Any],
    harm: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
    plain: Plain,
) -> None:
    saved = workplace.train_to(workplace.fresh(workplace.spec), 4, attempt=1)
    harm(workplace.artifacts / saved[0].file)
    state = workplace.resume(saved)
    assert len(state.history) == 3
    assert f"Checkpoint {saved[0].file} is skipped" in capsys.readouterr().out
    workplace.train_to(state, EPOCHS, attempt=2)
    assert plain(state) == unbroken


def test_without_a_checkpoint_that_can_be_trusted_a_job_begins_anew(workplace: Workplace) -> None:
    assert checkpoints.load_newest(workplace.artifacts, []) is None
    saved = workplace.train_to(workplace.fresh(workplace.spec), 2, attempt=1)
    for checkpoint in saved:
        truncate(workplace.artifacts / checkpoint.file)
    assert checkpoints.load_newest(workplace.artifacts, saved) is None


def files_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_only_what_is_recorded_makes_an_older_checkpoint_superfluous(tmp_path: Path) -> None:
    assert CHECKPOINTS_KEPT == 2
    kept = KeptCheckpoints(tmp_path, [], attempt=1)
    saved = [checkpoints.save(tmp_path, {}, attempt=1, epoch=epoch) for epoch in range(1, 6)]
    assert len(files_in(tmp_path)) == 5, "the database may be away for many epochs"
    for checkpoint in saved[:3]:
        kept.add(checkpoint)
    assert files_in(tmp_path) == {checkpoint.file for checkpoint in saved[1:]}


def test_a_superfluous_checkpoint_that_cannot_be_removed_costs_the_job_nothing(tmp_path: Path) -> None:
    kept = KeptCheckpoints(tmp_path, [], attempt=1)
    saved = [checkpoints.save(tmp_path, {}, attempt=1, epoch=epoch) for epoch in range(1, 5)]
    (tmp_path / saved[0].file).unlink()
    (tmp_path / saved[0].file).mkdir()  # as good as a file system that refuses
    for checkpoint in saved:
        kept.add(checkpoint)
    assert files_in(tmp_path) == {saved[0].file, saved[2].file, saved[3].file}


def test_the_checkpoint_of_the_best_epoch_stays_until_there_is_a_better_one(tmp_path: Path) -> None:
    kept = KeptCheckpoints(tmp_path, [], attempt=1)
    saved = [checkpoints.save(tmp_path, {}, attempt=1, epoch=epoch) for epoch in range(1, 8)]
    for checkpoint in saved[:5]:
        kept.add(checkpoint, saved[1].file)
    recorded = [saved[4], saved[3], saved[1]]
    assert files_in(tmp_path) == {checkpoint.file for checkpoint in (*recorded, *saved[5:])}
    kept = KeptCheckpoints(tmp_path, recorded, attempt=2)
    assert files_in(tmp_path) == {checkpoint.file for checkpoint in recorded}
    newer = checkpoints.save(tmp_path, {}, attempt=2, epoch=6)
    kept.add(newer, newer.file)
    assert files_in(tmp_path) == {saved[4].file, newer.file}


def test_the_next_attempt_removes_what_was_never_recorded_or_never_finished(tmp_path: Path) -> None:
    saved = [checkpoints.save(tmp_path, {}, attempt=1, epoch=epoch) for epoch in range(1, 5)]
    (tmp_path / "checkpoint-0001-000005.part").write_bytes(b"half of a network")
    (tmp_path / "plot.png").write_bytes(b"not a checkpoint")
    recorded = saved[2:0:-1]
    of_a_later_one = checkpoints.save(tmp_path, {}, attempt=3, epoch=4)
    KeptCheckpoints(tmp_path, recorded, attempt=2)
    assert files_in(tmp_path) == {"plot.png", of_a_later_one.file, *(checkpoint.file for checkpoint in recorded)}


def test_what_an_earlier_attempt_writes_after_the_takeover_goes_with_the_next_epoch_that_is_recorded(
    tmp_path: Path,
) -> None:
    recorded = [checkpoints.save(tmp_path, {}, attempt=1, epoch=1)]
    kept = KeptCheckpoints(tmp_path, recorded, attempt=2)
    checkpoints.save(tmp_path, {}, attempt=1, epoch=2)
    newest = checkpoints.save(tmp_path, {}, attempt=2, epoch=2)
    kept.add(newest)
    assert files_in(tmp_path) == {recorded[0].file, newest.file}


def test_after_a_takeover_the_checkpoint_that_was_used_is_still_there(workplace: Workplace) -> None:
    # The newest recorded checkpoint is damaged: the second attempt goes on from the one before and writes it anew.
    recorded = workplace.train_to(workplace.fresh(workplace.spec), 3, attempt=1)[:2]
    damage(workplace.artifacts / recorded[0].file)
    kept = KeptCheckpoints(workplace.artifacts, recorded, attempt=2)
    (newest,) = workplace.train_to(workplace.resume(recorded), 3, attempt=2)
    kept.add(newest)
    assert files_in(workplace.artifacts) == {recorded[1].file, newest.file}


# For each attempt named on its input: fork a process that writes one checkpoint after the other until it is killed.
WRITERS = """
import itertools, os, sys
from pathlib import Path
import torch
from worker import checkpoints

for line in sys.stdin:
    writer = os.fork()
    if not writer:
        for epoch in itertools.count(1):
            state = {"weights": torch.full((1_000_000,), float(epoch))}
            saved = checkpoints.save(Path(sys.argv[1]), state, attempt=int(line), epoch=epoch)
            os.write(1, saved.model_dump_json().encode() + b"\\n")
    os.write(1, b"%d\\n" % writer)
    os.waitpid(writer, 0)
    os.write(1, b"killed\\n")
"""


def test_no_kill_leaves_a_broken_file_under_the_name_of_a_checkpoint(tmp_path: Path) -> None:
    moments = random.Random(5)
    with subprocess.Popen(
        [sys.executable, "-c", WRITERS, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as writers:
        assert writers.stdin is not None
        assert writers.stdout is not None
        for attempt in range(1, 11):
            writers.stdin.write(f"{attempt}\n")
            lines: list[str] = []
            while not (any(map(str.isdecimal, lines)) and any(line.startswith("{") for line in lines)):
                lines.append(writers.stdout.readline().rstrip("\n"))
                assert lines[-1], "the process that starts the writers has ended"
            time.sleep(moments.uniform(0, 0.06))
            os.kill(int(next(filter(str.isdecimal, lines))), signal.SIGKILL)
            lines += itertools.takewhile(lambda line: line != "killed\n", iter(writers.stdout.readline, ""))
            told = [SavedCheckpoint.model_validate_json(line) for line in lines if line.startswith("{")]
            require_whole(tmp_path, attempt, told)
            for path in tmp_path.iterdir():
                path.unlink()


def require_whole(directory: Path, attempt: int, told: list[SavedCheckpoint]) -> None:
    """Hold every file under a final name to its content, and what the writer told last to its checksum."""
    assert told
    for path in directory.glob("checkpoint-*.pt"):
        loaded = torch.load(path, weights_only=True)
        assert path.name == f"checkpoint-{loaded['attempt']:04d}-{loaded['epoch']:06d}.pt"
        assert loaded["state"]["weights"].shape == (1_000_000,)
        assert torch.all(loaded["state"]["weights"] == loaded["epoch"])
    assert [checkpoint.epoch for checkpoint in told] == list(range(1, len(told) + 1))
    newest = directory / told[-1].file
    assert newest.name.startswith(f"checkpoint-{attempt:04d}-")
    assert hashlib.sha256(newest.read_bytes()).hexdigest() == told[-1].sha256
