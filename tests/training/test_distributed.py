"""Several ranks: real processes on the CPU, which train as one does, end together, and go on from each other's work."""

import itertools
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
import torch
from torch import Tensor, nn

from harness.training import Fresh, MakeJob
from models.result import EpochMetrics
from models.spec import JobSpec
from worker import checkpoints
from worker.forkserver import forkserver
from worker.messages import RANK_DIED, Assignment, EpochEnded, Event, Failed, SavedCheckpoint, Succeeded
from worker.runner_process import RunnerProcess
from worker.training.distributed import MeetingPlace, RankStep, Together, draw_apart

# Of losses, and of weights beside the largest of their tensor. The sums of a batch are added in another order, which
# float32 rounds by 6e-8; after these steps losses were off by 3e-7 at most, weights by 1.4e-6. With the mean over the
# ranks in place of that over the samples of an uneven batch, which is one step in thirteen, they are off by 1e-4.
TOLERANCE = 1e-5
EPOCHS = 3
SECONDS = 60  # in which a runner has ended, or something is wrong
FIGURES = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "learning_rate", "penalty")

LENET: dict[str, Any] = {
    "name": "sequential",
    "layers": [
        {"kind": "conv2d", "out_channels": 6, "kernel_size": 5, "padding": 2},
        {"kind": "relu"},
        {"kind": "max_pool2d"},
        {"kind": "conv2d", "out_channels": 16, "kernel_size": 5, "padding": 2},
        {"kind": "relu"},
        {"kind": "max_pool2d"},
        {"kind": "flatten"},
        {"kind": "linear", "out_features": 120},
        {"kind": "relu"},
        {"kind": "linear", "out_features": 84},
        {"kind": "relu"},
        {"kind": "linear", "out_features": 10},
    ],
}
CNN: dict[str, Any] = {"name": "cnn", "channels": [6, 4], "hidden": [8], "batch_norm": False}
MLP: dict[str, Any] = {"name": "mlp", "hidden": [24, 16]}
SHARED: dict[str, Any] = {"name": "resnet", "channels": 6, "blocks": 3, "share_weights": True, "hidden": [8]}
DRAWING: dict[str, Any] = {
    "name": "sequential",
    "layers": [
        {"kind": "conv2d", "out_channels": 6, "kernel_size": 3},
        {"kind": "relu"},
        {"kind": "dropout2d", "probability": 0.2},
        {"kind": "flatten"},
        {"kind": "dropout", "probability": 0.4},
        {"kind": "linear", "out_features": 10},
    ],
}
SGD: dict[str, Any] = {"optimizer": {"momentum": 0.9}, "l2_penalty": 1e-3}
ADAM: dict[str, Any] = {
    "optimizer": {"name": "adam", "learning_rate": 0.003},
    "schedule": {"name": "one_cycle"},
    "label_smoothing": 0.1,
    "gradient_clip_norm": 0.5,
}


@dataclass
class Ended:
    """What a runner left behind."""

    exit_code: int | None
    output: str
    events: list[Event]
    ranks: list[psutil.Process]

    @property
    def outcome(self) -> Event | None:
        return next((event for event in self.events if isinstance(event, Succeeded | Failed)), None)

    @property
    def epochs(self) -> list[EpochMetrics]:
        return [event.metrics for event in self.events if isinstance(event, EpochEnded)]

    @property
    def checkpoints(self) -> list[SavedCheckpoint]:
        """The checkpoints, newest first."""
        return [event.checkpoint for event in self.events if isinstance(event, EpochEnded)][::-1]


@dataclass
class Job:
    """A job with its artifacts, whose attempts may have different numbers of ranks."""

    spec: JobSpec
    context: ForkServerContext
    artifacts: Path
    datasets: Path
    kept: list[SavedCheckpoint] = field(default_factory=list)
    attempt: int = 0

    @contextmanager
    def running(self, ranks: int) -> Iterator[RunnerProcess]:
        """Start a runner that goes on from the checkpoints kept, and kill whatever is left of it at the end."""
        self.attempt += 1
        assignment = Assignment(
            job_id=uuid4(),
            attempt=self.attempt,
            spec=self.spec,
            artifacts=self.artifacts,
            datasets=self.datasets,
            download=False,
            checkpoints=self.kept,
            threads=1,
            # No such GPUs are here, and the spec leaves the device open: the ranks train on the CPU.
            gpus=[f"GPU-{rank}" for rank in range(ranks)] if ranks > 1 else [],
            git_commit=None,
        )
        runner = RunnerProcess(self.context, assignment)
        runner.set_deadline("test", time.monotonic() + SECONDS)
        try:
            yield runner
        finally:
            runner.kill()

    def run(self, ranks: int, *, after_epoch: Callable[[RunnerProcess], None] | None = None) -> Ended:
        """Run to the end; `after_epoch` is called once, with the first epoch that ended."""
        events: list[Event] = []
        others: list[psutil.Process] = []
        output = ""
        ended = False
        with self.running(ranks) as runner:
            while not ended:
                ended = runner.wait(0.25)
                events += runner.take_events()
                output += runner.take_output()
                if after_epoch is not None and any(isinstance(event, EpochEnded) for event in events):
                    others = psutil.Process(runner.pid).children()
                    after_epoch(runner)
                    after_epoch = None
            assert runner.killed_for is None, output
            return Ended(runner.exit_code, output, events, others)

    def weights(self, kept: SavedCheckpoint) -> dict[str, Tensor]:
        weights: dict[str, Tensor] = self.state(kept)["network"]
        return weights

    def state(self, kept: SavedCheckpoint) -> dict[str, Any]:
        found = checkpoints.load_newest(self.artifacts, [kept])
        assert found is not None
        state: dict[str, Any] = found[0]["replicas"][0]
        return state


NewJob = Callable[..., Job]


@pytest.fixture(scope="module")
def context() -> ForkServerContext:
    return forkserver()


@pytest.fixture
def new_job(
    job: MakeJob, context: ForkServerContext, tmp_path_factory: pytest.TempPathFactory, digits_cache: Path
) -> NewJob:
    def make(network: dict[str, Any], **training: Any) -> Job:
        spec = job(network, **({"epochs": EPOCHS, "batch_size": 100} | training))
        return Job(spec, context, tmp_path_factory.mktemp("artifacts"), digits_cache)

    return make


def require_close(found: Ended, expected: Ended) -> None:
    assert [metrics.epoch for metrics in found.epochs] == [metrics.epoch for metrics in expected.epochs]
    for own, other in zip(found.epochs, expected.epochs, strict=True):
        for figure in FIGURES:
            # One sample whose two best classes are as likely as each other may fall to either.
            slack = 0.001 if figure.endswith("accuracy") else 0.0
            assert getattr(own, figure) == pytest.approx(getattr(other, figure), rel=TOLERANCE, abs=slack), figure


def require_same_weights(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert {name: tensor.shape for name, tensor in found.items()} == {
        name: tensor.shape for name, tensor in expected.items()
    }
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0.0, atol=TOLERANCE * float(tensor.abs().max()))


def gone(processes: list[psutil.Process]) -> bool:
    """Wait for processes that are not our children to end, killed or not."""
    return not psutil.wait_procs(processes, timeout=10)[1]


@pytest.mark.parametrize(
    ("network", "training", "ranks"),
    [(MLP, SGD, 2), (LENET, SGD, 2), (CNN, ADAM, 2), (SHARED, SGD, 2), (MLP, ADAM, 3)],
    ids=["mlp", "lenet", "cnn-adam", "shared-weights", "three-ranks"],
)
def test_several_ranks_give_the_losses_and_the_weights_of_one(
    new_job: NewJob, network: dict[str, Any], training: dict[str, Any], ranks: int
) -> None:
    one, several = (new_job(network, evaluate_before_training=True, **training) for _ in range(2))
    alone, together = one.run(1), several.run(ranks)
    assert isinstance(alone.outcome, Succeeded), alone.output
    assert isinstance(together.outcome, Succeeded), together.output
    require_close(together, alone)
    require_same_weights(several.weights(together.checkpoints[0]), one.weights(alone.checkpoints[0]))
    assert together.outcome.result["loss"] == pytest.approx(alone.outcome.result["loss"], rel=TOLERANCE)
    assert together.outcome.result["macs_per_sample"] == alone.outcome.result["macs_per_sample"]
    assert together.outcome.result["environment"]["gpus"] == 0


def test_a_rank_without_a_sample_of_the_last_batch_takes_part_in_its_step(new_job: NewJob) -> None:
    samples = new_job(MLP, epochs=1).run(1).outcome
    assert isinstance(samples, Succeeded)
    trained_on = samples.result["dataset"]["splits"]["train"]["samples"]
    batch_size = next(size for size in range(90, trained_on) if trained_on % size == 1)
    one, two = (new_job(CNN, batch_size=batch_size, **SGD) for _ in range(2))
    alone, together = one.run(1), two.run(2)
    require_close(together, alone)
    require_same_weights(two.weights(together.checkpoints[0]), one.weights(alone.checkpoints[0]))


@pytest.mark.parametrize(("first", "second"), [(2, 1), (1, 2), (2, 3)], ids=["2-1", "1-2", "2-3"])
def test_a_job_goes_on_with_another_number_of_ranks(new_job: NewJob, first: int, second: int) -> None:
    whole = new_job(MLP, **ADAM)
    unbroken = whole.run(1)
    broken = new_job(MLP, **ADAM)
    begun = broken.run(first)
    assert set(broken.state(begun.checkpoints[0])) == set(whole.state(unbroken.checkpoints[0]))
    broken.kept = begun.checkpoints[-1:]  # of the first epoch
    resumed = broken.run(second)
    assert [metrics.epoch for metrics in resumed.epochs] == [2, 3]
    unbroken.events = [
        event for event in unbroken.events if not isinstance(event, EpochEnded) or event.metrics.epoch > 1
    ]
    require_close(resumed, unbroken)
    require_same_weights(broken.weights(resumed.checkpoints[0]), whole.weights(unbroken.checkpoints[0]))


def test_two_ranks_that_were_stopped_end_as_those_that_were_not_to_the_bit(
    new_job: NewJob, exactly: Callable[[Any], Any]
) -> None:
    drawing: dict[str, Any] = {"augmentation": {"random_crop": {"padding": 1}, "cutout": {"size": 3}}}
    whole, broken = (new_job(DRAWING, **drawing) for _ in range(2))
    unbroken = whole.run(2)
    broken.kept = broken.run(2).checkpoints[-1:]
    resumed = broken.run(2)
    assert len(resumed.epochs) == EPOCHS - 1
    assert exactly(broken.state(resumed.checkpoints[0])) == exactly(whole.state(unbroken.checkpoints[0]))


def test_ranks_drop_and_augment_with_draws_of_their_own(job: MakeJob, fresh: Fresh) -> None:
    spec = job(DRAWING)
    drawn = []
    for number, epoch in [(1, 1), (1, 2), (2, 1), (1, 1)]:
        state = fresh(spec)
        state.ranks = Together(number, 3, MeetingPlace())
        draw_apart(state, seed=7, epoch=epoch)
        drawn.append((torch.rand(4).tolist(), torch.rand(4, generator=state.augmenter).tolist()))
    assert drawn[0] == drawn[3]
    assert all(one[0] != other[0] and one[1] != other[1] for one, other in itertools.combinations(drawn[:3], 2))
    assert all(dropped != augmented for dropped, augmented in drawn)


@pytest.mark.parametrize("samples", [1, 2, 7, 96])
@pytest.mark.parametrize("count", [2, 3, 8])
def test_the_parts_of_all_ranks_are_the_batch_and_differ_by_one_sample_at_most(samples: int, count: int) -> None:
    place = MeetingPlace()
    batches = torch.randperm(2 * samples).split(samples)
    parts = [Together(number, count, place).own(batches) for number in range(count)]
    for batch, own in zip(batches, zip(*parts, strict=True), strict=True):
        assert torch.equal(torch.cat(own), batch)
        assert max(map(len, own)) - min(map(len, own)) <= 1


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, 3),
        nn.MaxPool2d(2),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.LayerNorm((3, 8, 8)),
        nn.GroupNorm(3, 3),
        nn.Dropout2d(),
        nn.Softmax(dim=1),
        nn.GELU(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_an_empty_part_passes_every_kind_of_layer_and_leaves_no_gradient(
    job: MakeJob, fresh: Fresh, layer: nn.Module
) -> None:
    spec = job(MLP, batch_size=1)
    state = fresh(spec)
    before = nn.Conv2d(3, 3, 1)
    network = nn.Sequential(before, layer, nn.Flatten())
    step = RankStep(state, spec.training, range(10))  # type: ignore[arg-type] # its length alone is asked for
    loss, minimised = step._losses(network(torch.empty(0, 3, 8, 8)), torch.empty(0, dtype=torch.int64))
    minimised.backward()
    assert float(loss) == 0.0
    for parameter in network.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()


LONG: dict[str, Any] = {"epochs": 1_000, "batch_size": 8}


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_rank_that_is_killed_ends_all_at_once_and_the_job_has_no_outcome(new_job: NewJob, ranks: int) -> None:
    def kill_the_last(runner: RunnerProcess) -> None:
        psutil.Process(runner.pid).children()[-1].kill()

    ended = new_job(MLP, **LONG).run(ranks, after_epoch=kill_the_last)
    assert (ended.exit_code, ended.outcome) == (RANK_DIED, None)
    assert f"The process of rank {ranks - 1} died with exit code -9." in ended.output
    assert len(ended.ranks) == ranks - 1
    assert gone(ended.ranks)


def test_the_other_ranks_end_with_the_first(new_job: NewJob) -> None:
    ended = new_job(MLP, **LONG).run(3, after_epoch=lambda runner: psutil.Process(runner.pid).kill())
    assert (ended.exit_code, ended.outcome) == (-9, None)
    assert len(ended.ranks) == 2
    assert gone(ended.ranks)


def test_a_request_to_stop_ends_all_ranks_after_the_epoch(new_job: NewJob) -> None:
    def stop(runner: RunnerProcess) -> None:
        runner.ask_to_stop("pause", grace_seconds=SECONDS)

    ended = new_job(MLP, epochs=100_000).run(2, after_epoch=stop)
    assert (ended.exit_code, ended.outcome) == (0, None)
    assert "Traceback" not in ended.output
    assert len(ended.ranks) == 1
    assert gone(ended.ranks)


def test_a_loss_that_is_not_finite_is_told_as_by_one_process(new_job: NewJob) -> None:
    alone, together = (new_job(MLP, learning_rate=1_000.0, l2_penalty=1.0).run(ranks).outcome for ranks in (1, 2))
    for outcome in (alone, together):
        assert isinstance(outcome, Failed)
        assert outcome.reason == "non_finite_loss"
        assert re.fullmatch(r"The loss became (inf|nan) in epoch 1, step \d+ of \d+\.", outcome.message)


# What other ranks do in these, by their number; rank 0 waits as it does in a step.
FAILING = """
import sys, threading, time
from worker.messages import Failed
from worker.other_ranks import OtherRanks

def work(ranks, orders):
    orders.beginning()
    if ranks.number == 2:
        {deed}
    for _ in orders.epochs():
        pass

others = OtherRanks.forked(3, work)
others.watch(lambda failure: print(failure.reason, failure.message, flush=True))
others.start(None)
{first}
"""


def run_ranks(deed: str, first: str = "time.sleep(60)") -> tuple[int, str]:
    script = FAILING.format(deed=deed, first=first)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=SECONDS, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_rank_says_why_it_fails_before_all_end() -> None:
    code, said = run_ranks("return Failed(reason='out_of_memory', message='GPU 2 is full.')")
    assert (code, said) == (0, "out_of_memory GPU 2 is full.\n")


def test_a_broken_connection_is_not_told_where_another_rank_says_what_broke_it() -> None:
    """Rank 0 sees its connection end before the cause is known."""
    code, said = run_ranks(
        "time.sleep(0.5); return Failed(reason='out_of_memory', message='GPU 2 is full.')",
        "others.end(Failed(reason='runner_error', message='Connection closed by peer')); print('not the cause')",
    )
    assert (code, said) == (0, "out_of_memory GPU 2 is full.\n")


def test_ranks_that_are_dismissed_end_by_themselves() -> None:
    code, said = run_ranks("pass", "others.dismiss(); [each.join() for each in others._processes]; print('over')")
    assert (code, said) == (0, "over\n")
