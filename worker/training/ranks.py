"""The ranks of a training, which are the processes that train one network together: most trainings have one."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Ranks:
    """The ranks as one of them sees them; this one has no other beside it, and trains on all of every batch."""

    number = 0
    count = 1

    def meet(self, device: torch.device) -> None:
        """Wait for the others; what follows on `device` is done with them."""

    def begin(self, epoch: int) -> None:
        """Let the others train this epoch too."""

    def own(self, batches: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return this rank's part of each batch of places, int64 (n,)."""
        return batches

    def total(self, figures: Tensor) -> Tensor:
        """Return the figures (steps, 3) of whole batches from those of this rank's parts."""
        return figures

    def leave(self) -> None:
        """Part from the others after the last epoch."""
