"""Which replicas are trained as one stacked network, in which groups, and an epoch of such a group."""

import math
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from models.network import NetworkSummary
from models.training_spec import TrainingSpec
from worker.networks.layers import Block, Residual
from worker.training import memory
from worker.training.data import BatchedSplit, DeviceSplit, Part
from worker.training.graphs import GraphStep, Recorder
from worker.training.loop import TrainEpoch, rate_of_step, require_finite
from worker.training.stacked import Stacked
from worker.training.state import TrainState
from worker.training.step import Step

# What computes each sample by itself, draws nothing and keeps nothing: stacked, it computes what it computes alone.
_STACKABLE = (
    *(nn.Sequential, nn.ModuleList, Block, Residual, nn.Flatten),
    *(nn.Conv2d, nn.Linear, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.LayerNorm, nn.GroupNorm),
    *(nn.ReLU, nn.LeakyReLU, nn.GELU, nn.Tanh, nn.Sigmoid, nn.Softmax, nn.LogSoftmax),
)
_VALUE_BYTES = 4
_MEMORY_SHARE = 0.5  # of what is free: the estimate below knows nothing of the work space of convolutions
_WEIGHT_COPIES = 6  # the weights in the network and stacked, gradients, two averages of Adam, the step's own
_ACTIVATION_COPIES = 4  # at the largest layer: forward and backward, each with a copy as groups of one convolution


def why_in_turn(training: TrainingSpec, network: nn.Module) -> str | None:
    """Say why the replicas of a spec are to be trained one after the other; None where they can be stacked."""
    if any(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in network.modules()):
        return "Trained in turn: batch norm keeps statistics of each replica while it trains."
    if any(isinstance(module, nn.Dropout | nn.Dropout2d) for module in network.modules()):
        return "Trained in turn: dropout draws for each replica from the generator of its own seed."
    if not all(isinstance(module, _STACKABLE) for module in network.modules()):
        return "Trained in turn: not every layer of this network is known to give the same numbers when stacked."
    if training.augmentation is not None:
        return "Trained in turn: augmentation draws for each replica from the generator of its own seed."
    if training.precision == "float16":
        return "Trained in turn: float16 scales the loss of each replica by what overflowed in it."
    if training.deterministic:
        return "Trained in turn: deterministic asks for the numbers of the single jobs to the bit."
    return None


def train_together(
    states: Sequence[TrainState], training: TrainingSpec, train: Sequence[BatchedSplit], free_bytes: int | None = None
) -> list[TrainEpoch]:
    """Return what trains an epoch of each replica on its own split; the first of a group to ask trains all of it.

    The states stand at the same epoch, and all hold their new weights after it. Groups are as large as `free_bytes`,
    those free on the device by default, suffice for. Networks must be such that `why_in_turn` has nothing to say.
    """
    device = states[0].device
    free = memory.free_bytes(device) if free_bytes is None else free_bytes
    each = _bytes_per_replica(states[0].summary, min(training.batch_size, len(train[0])))
    trainers: list[TrainEpoch] = []
    for size in group_sizes(len(states), each, free):
        chosen = slice(len(trainers), len(trainers) + size)
        recorder = Recorder(device, []) if device.type == "cuda" else None
        group = Group(states[chosen], training, train[chosen], recorder)
        trainers += [group.trainer(place) for place in range(size)]
    return trainers


def group_sizes(replicas: int, bytes_each: int, free_bytes: int) -> list[int]:
    """Return how many replicas are trained at once, group by group: as few groups, and as even, as memory allows."""
    together = max(1, int(free_bytes * _MEMORY_SHARE) // bytes_each)
    groups = math.ceil(replicas / together)
    borders = [replicas * group // groups for group in range(groups + 1)]
    return [end - start for start, end in pairwise(borders)]


@dataclass(frozen=True)
class _Figures:
    """An epoch of a group on the CPU: losses, penalties and right predictions of each step, (steps, R) each.

    `weights` (steps,) is the part of the samples that each step saw.
    """

    losses: Tensor
    penalties: Tensor
    hits: Tensor
    weights: Tensor


class Group:
    """Replicas that are trained at once, and the figures of their last epoch."""

    def __init__(
        self,
        states: Sequence[TrainState],
        training: TrainingSpec,
        train: Sequence[BatchedSplit],
        recorder: Recorder | None,
    ) -> None:
        """Stack the replicas as they stand; `recorder` makes a CUDA graph of their step, where there is one."""
        self._states = states
        self._train = train
        self._joined = DeviceSplit.joined(train)
        starts = [0, *accumulate(len(split) for split in train[:-1])]
        self._starts = torch.tensor(starts)[:, None]  # of each split in the joined one
        self._stacked = Stacked(states, training, self._ready)
        self._step: Step = self._stacked
        if recorder is not None:
            samples = len(states) * training.batch_size
            self._step = GraphStep(self._stacked, self._stacked, training, recorder, samples)
        self._epoch = 0
        self._figures: _Figures | None = None

    def trainer(self, place: int) -> TrainEpoch:
        """Return what trains the replica that stands at `place` of the group."""

        def train_epoch(
            state: TrainState, training: TrainingSpec, train: BatchedSplit, epoch: int
        ) -> tuple[float, float | None, float]:
            if self._figures is None or self._epoch != epoch:
                self._figures, self._epoch = self._train_one_epoch(training, epoch), epoch
            figures = self._figures
            losses, penalties = figures.losses[:, place], figures.penalties[:, place]
            require_finite(losses + penalties, epoch)
            return (
                float(losses.double() @ figures.weights),
                state.objective.accuracy(figures.hits[:, place].double().sum(), len(train)),
                float(penalties.double() @ figures.weights),
            )

        return train_epoch

    def _train_one_epoch(self, training: TrainingSpec, epoch: int) -> _Figures:
        """Go through the split of each replica once, in an order of its own, and leave each state as trained."""
        self._stacked.network.train()
        members = zip(self._states, self._train, strict=True)
        orders = torch.stack([torch.randperm(len(split), generator=state.sampler) for state, split in members])
        sizes = torch.tensor([len(batch) for batch in orders[0].split(training.batch_size)], dtype=torch.float64)
        figures = []
        with closing(self._parts(orders, training.batch_size)) as parts:
            for number, part in enumerate(parts):
                figures.append(self._step(part, rate_of_step(training, epoch, number, len(sizes))))
        self._stacked.write_back()
        losses, penalties, hits = torch.stack(figures).cpu().unbind(1)
        return _Figures(losses, penalties, hits, sizes / orders.shape[1])

    def _parts(self, orders: Tensor, batch_size: int) -> Generator[Part]:
        """Yield a part for each batch of all replicas, of the samples of each split in its order of `orders` (R, N).

        Its first half is what `_ready` makes the inputs of, its second the targets, (R * B,).
        """
        with ExitStack() as opened:
            if self._joined is not None:
                batches = [batch.flatten() for batch in (orders + self._starts).split(batch_size, dim=1)]
                yield from opened.enter_context(closing(self._joined.parts(batches)))
                return
            streams = [
                opened.enter_context(closing(split.parts(order.split(batch_size))))
                for split, order in zip(self._train, orders, strict=True)
            ]
            for parts in zip(*streams, strict=True):
                ready = [split.ready(part) for split, part in zip(self._train, parts, strict=True)]
                yield torch.cat([inputs for inputs, _ in ready]), torch.cat([targets for _, targets in ready])

    def _ready(self, part: Part) -> tuple[Tensor, Tensor]:
        """Return inputs (R, B, ...) and targets (R, B)."""
        inputs, targets = part if self._joined is None else self._joined.ready(part)
        replicas = len(self._states)
        return inputs.unflatten(0, (replicas, -1)), targets.unflatten(0, (replicas, -1))


def _bytes_per_replica(summary: NetworkSummary, batch: int) -> int:
    """Return an estimate from above of what training one more replica takes on the device."""
    kept = sum(math.prod(place.output_shape) * place.applied for place in summary.places())
    activations = batch * (kept + _ACTIVATION_COPIES * summary.largest_activations)
    return _VALUE_BYTES * (_WEIGHT_COPIES * summary.parameters + activations)
