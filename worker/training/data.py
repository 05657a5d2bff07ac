"""A split of a data set on the device, whole; a batch is an index slice of it."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

Augment = Callable[[Tensor], Tensor]


class DeviceSplit:
    """Images as uint8 (N, C, H, W) or rows as float32 (N, F), and their targets (N,), put on the device once.

    Targets are int64 labels, or float32 numbers in a regression. Pixels become float32 per batch, scaled to 0..1 and
    normalised per channel: a quarter of the memory of float data. Rows are used as they are.
    """

    def __init__(
        self,
        inputs: np.ndarray,
        targets: np.ndarray,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        device: torch.device,
    ) -> None:
        """Copy the arrays to the device; `mean` and `std` are of images, per channel, of pixels scaled to 0..1."""
        numbers = np.issubdtype(targets.dtype, np.floating)
        self.targets = torch.tensor(targets, dtype=torch.float32 if numbers else torch.int64, device=device)
        self._scale_and_shift: tuple[Tensor, Tensor] | None = None
        if inputs.dtype != np.uint8:
            self.inputs = torch.tensor(inputs, dtype=torch.float32, device=device)
            return
        assert mean is not None, "images have a mean and a standard deviation per channel"
        assert std is not None, "images have a mean and a standard deviation per channel"
        self.inputs = torch.tensor(inputs, dtype=torch.uint8, device=device)
        # (x / 255 - mean) / std as one multiply and one add
        scale = 1.0 / (255.0 * torch.tensor(std, dtype=torch.float64))
        shift = -torch.tensor(mean, dtype=torch.float64) / torch.tensor(std, dtype=torch.float64)
        self._scale_and_shift = _per_channel(scale, device), _per_channel(shift, device)

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, indices: Tensor | slice, augment: Augment | None = None) -> tuple[Tensor, Tensor]:
        """Return float32 inputs, images normalised, and targets (B,); `augment` changes images before that."""
        inputs, targets = self.inputs[indices], self.targets[indices]
        if self._scale_and_shift is None:
            return inputs, targets
        if augment is not None:
            inputs = augment(inputs)
        scale, shift = self._scale_and_shift
        return torch.addcmul(shift, inputs.float(), scale), targets

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the whole split in order."""
        for start in range(0, len(self), batch_size):
            yield self.batch(slice(start, start + batch_size))


def _per_channel(values: Tensor, device: torch.device) -> Tensor:
    return values.to(device, torch.float32).view(1, -1, 1, 1)
