"""The replicas of a job: the same spec trained with several seeds in one process, epoch by epoch, each on its own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from models.errors import NonFiniteLoss
from models.result import EpochMetrics
from models.spec import JobSpec
from models.training_spec import TrainingSpec
from worker.training.across_replicas import combine
from worker.training.data import BatchedSplit
from worker.training.loop import TrainEpoch, fit
from worker.training.ranks import Ranks
from worker.training.splits import Splits
from worker.training.state import TrainState
from worker.training.vectorised import train_together, why_in_turn

_ON_CPU = "Trained in turn: on a CPU a stacked network is slower than one after the other."


class Replica:
    """One of the trainings: its state, and torch's global generators as it left them, which dropout draws from."""

    def __init__(self, spec: JobSpec, device: torch.device, weights: Path, ranks: Ranks, *, alone: bool) -> None:
        """Begin as the single job of the resolved `spec` does; `alone` says that there is no other replica."""
        self.state = TrainState.fresh(spec, device, weights=weights, ranks=ranks)
        self._name = None if alone else f"Replica with seed {spec.training.seed}"
        self._keep_generators()

    @contextmanager
    def at_work(self) -> Iterator[TrainState]:
        """Give torch's global generators to this replica; a NonFiniteLoss raised inside names its seed."""
        torch.set_rng_state(self._generator)
        if self._cuda_generator is not None:
            torch.cuda.set_rng_state(self._cuda_generator, self.state.device)
        try:
            yield self.state
        except NonFiniteLoss as error:
            if self._name is None:
                raise
            raise NonFiniteLoss(f"{self._name}: {error}") from error
        finally:
            self._keep_generators()

    def epochs(self, training: TrainingSpec, splits: Splits, train_epoch: TrainEpoch | None) -> Iterator[EpochMetrics]:
        """Train as `fit` does, with the generators of others in between."""
        run = fit(self.state, training, splits.train, splits.validation, train_epoch)
        while True:
            with self.at_work():
                metrics = next(run, None)
            if metrics is None:
                return
            yield metrics

    def _keep_generators(self) -> None:
        device = self.state.device
        self._generator = torch.get_rng_state()
        self._cuda_generator = torch.cuda.get_rng_state(device) if device.type == "cuda" else None


class Replicas:
    """All replicas of a job in the order of their seeds, saved and loaded together; a job without has one."""

    def __init__(self, members: Sequence[Replica], seeds: Sequence[int], note: str | None) -> None:
        """Hold the replicas of the seeds; `note` says why they are trained in turn, None that they are not."""
        self.members = members
        self.seeds = seeds
        self.note = note

    @classmethod
    def fresh(
        cls,
        spec: JobSpec,
        device: torch.device,
        *,
        weights: Path,
        ranks: Ranks | None = None,
        vectorise_on_cpu: bool = False,
    ) -> "Replicas":
        """Build each replica as the single job with its seed; see `TrainState.fresh`.

        They are trained as one stacked network where that is known to be right, and to be faster: on a GPU.
        """
        seeds, ranks = spec.training.seeds, ranks or Ranks()
        members = [Replica(_single(spec, seed), device, weights, ranks, alone=len(seeds) == 1) for seed in seeds]
        note = why_in_turn(spec.training, members[0].state.network)
        if note is None and device.type == "cpu" and not vectorise_on_cpu:
            note = _ON_CPU
        return cls(members, seeds, note)

    @property
    def first(self) -> TrainState:
        """The state of the first replica, whose job this is."""
        return self.members[0].state

    @property
    def history(self) -> list[EpochMetrics]:
        """The finished epochs, each of all replicas."""
        return [combine(epochs) for epochs in zip(*(member.state.history for member in self.members), strict=True)]

    def fit(self, training: TrainingSpec, splits: Sequence[Splits]) -> Iterator[EpochMetrics]:
        """Train all replicas, each on its own splits, and yield an epoch when the last of them has finished it.

        Leaving the iteration stops all at the same epoch. Raises NonFiniteLoss naming the seed.
        """
        trained_by = self._trained_by(training, [each.train for each in splits])
        runs = [
            member.epochs(training, own, train_epoch)
            for member, own, train_epoch in zip(self.members, splits, trained_by, strict=True)
        ]
        for epochs in zip(*runs, strict=True):
            yield combine(epochs)

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values only, those of all replicas after the same epoch."""
        states = []
        for member in self.members:
            with member.at_work() as state:
                states.append(state.state_dict())
        return {"replicas": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        for member, saved in zip(self.members, state["replicas"], strict=True):
            with member.at_work() as own:
                own.load_state_dict(saved)

    def load_weights(self, state: dict[str, Any]) -> None:
        """Begin with the weights of a saved state: each replica with its own, or all with those of the first.

        The latter is so where there are not as many replicas as there were.
        """
        saved = state["replicas"]
        if len(saved) != len(self.members):
            saved = [saved[0]] * len(self.members)
        for member, its in zip(self.members, saved, strict=True):
            with member.at_work() as own:
                own.load_weights(its)

    def _trained_by(self, training: TrainingSpec, train: Sequence[BatchedSplit]) -> Sequence[TrainEpoch | None]:
        if self.note is not None or len(self.members) == 1:
            return [None] * len(self.members)
        return train_together([member.state for member in self.members], training, train)


def _single(spec: JobSpec, seed: int) -> JobSpec:
    """Return the spec of the single job with this seed."""
    training = spec.training.model_copy(update={"seed": seed, "replicas": 1})
    return spec.model_copy(update={"training": training})
