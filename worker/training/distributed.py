"""Several ranks on one host, each a process with a device of its own: how they meet, and how they make a step."""

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import cycle

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from models.training_spec import TrainingSpec
from worker.training.data import BatchedSplit, Part
from worker.training.ranks import Ranks
from worker.training.state import TrainState
from worker.training.step import EagerStep

# A rank waits for the others no longer: to put its data on the device, or for a step of theirs.
_PATIENCE = timedelta(minutes=10)
_INTERFACE = "lo"  # on which ranks of one host connect: by it no name is looked up, and no other host is listened to


class MeetingPlace:
    """A file in memory through which ranks find each other: those forked after it was made, and nobody else."""

    def __init__(self) -> None:
        """Make the file; it goes with the last process that has it, however that ends."""
        self._file = os.memfd_create("ranks")

    @property
    def url(self) -> str:
        """What torch.distributed knows it by, in each of these processes."""
        return f"file:///proc/self/fd/{self._file}"


class Together(Ranks):
    """One of several ranks: they go through the same batches in the same order, each with its part of every batch."""

    def __init__(
        self, number: int, count: int, place: MeetingPlace, begin: Callable[[int], None] | None = None
    ) -> None:
        """Be rank `number` of `count`, from 0; `begin` tells the other ranks which epoch is trained next."""
        self.number = number
        self.count = count
        self._place = place
        self._begin = begin

    def meet(self, device: torch.device) -> None:
        """Wait for the other ranks, which have devices of the same kind; those of a CPU are for tests."""
        os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = _INTERFACE  # noqa: TID251
        on_gpu = device.type == "cuda"
        distributed.init_process_group(
            "nccl" if on_gpu else "gloo",
            init_method=self._place.url,
            rank=self.number,
            world_size=self.count,
            timeout=_PATIENCE,
            device_id=torch.device("cuda", torch.cuda.current_device()) if on_gpu else None,
        )

    def begin(self, epoch: int) -> None:
        """Let the others train this epoch too, where this rank is the one that says so."""
        if self._begin is not None:
            self._begin(epoch)

    def own(self, batches: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return one of as many even parts of each batch as there are ranks; of a small batch it can be empty."""
        return [batch.tensor_split(self.count)[self.number] for batch in batches]

    def total(self, figures: Tensor) -> Tensor:
        """Add up losses and hits of all ranks; the penalty of the weights, which all have alike, counts once."""
        if self.number > 0:
            figures[:, 1] = 0.0
        distributed.all_reduce(figures)
        return figures

    def leave(self) -> None:
        """Part from the other ranks, which do the same."""
        distributed.destroy_process_group()


class RankStep(EagerStep):
    """A step with one rank's part of a batch, against the gradient of the whole batch.

    Batch norm has the statistics of the whole batch on GPUs. On a CPU, where torch has no such layer, each rank
    normalises by those of its part, and the running statistics are those that rank 0 saw.
    """

    def __init__(self, state: TrainState, training: TrainingSpec, train: BatchedSplit) -> None:
        """Prepare for epochs of `train`, each from its first batch to its last; the ranks need not have met yet."""
        super().__init__(state, training, train)
        self._sizes = cycle([len(batch) for batch in torch.arange(len(train)).split(training.batch_size)])
        self._samples = 0  # of the whole batch
        self._ranks = state.ranks.count
        self._connected = False
        if state.device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(state.network)  # in place, under the same names and parameters

    def descend(self, part: Part) -> Tensor:
        """Make the step; return loss and hits of the part, as its share of the batch, and the penalty."""
        if not self._connected:
            # Not before the first step: this waits for the others, and gives them the weights of rank 0.
            self._network = DistributedDataParallel(self._network)
            self._connected = True
        self._samples = next(self._sizes)
        return super().descend(part)

    def _losses(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the part's share of the batch's mean loss, and what is minimised of it.

        DistributedDataParallel averages gradients over the ranks, whatever the sizes of their parts: times the number
        of ranks, it is the sum, and that of the shares is the gradient of the batch's mean.
        """
        if not len(targets):
            nothing = outputs.sum()  # which is 0, and lets the backward pass go through all layers
            return nothing.detach(), nothing
        share = len(targets) / self._samples
        loss, minimised = super()._losses(outputs, targets)
        return share * loss, self._ranks * share * minimised


def draw_apart(state: TrainState, seed: int, epoch: int) -> None:
    """Give this rank random numbers of its own, for dropout and augmentation, that follow from seed, rank and epoch.

    The first rank goes on with those of a training alone, which checkpoints keep.
    """
    dropout, augmentation = np.random.SeedSequence([seed, state.ranks.number, epoch]).generate_state(2)
    torch.manual_seed(int(dropout))
    state.augmenter.manual_seed(int(augmentation))
