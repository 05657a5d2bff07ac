"""A split of a data set, batch by batch: the face that all have, and the split that stands on the device whole."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from copy import copy

import numpy as np
import torch
from torch import Tensor

Augment = Callable[[Tensor], Tensor]
# What a batch is made of, both on the device: what `BatchedSplit.ready` takes its inputs from, and its targets (B,).
Part = tuple[Tensor, Tensor]

_CHUNK_BYTES = 2**22  # of a data set on its way to the device: fits in the cache of a core


class BatchedSplit(ABC):
    """Images as uint8 (N, C, H, W) or rows as float32 (N, F), and their targets (N,) on the device.

    Targets are int64 labels, or float32 numbers in a regression. Pixels become float32 per batch, scaled to 0..1 and
    normalised per channel: a quarter of the memory of float data, and as fast. Rows are used as they are. Images are
    laid out in the memory format that their network computes in, so that a batch is in it without a copy.
    """

    def __init__(
        self,
        inputs: np.ndarray | Tensor,
        targets: np.ndarray,
        *,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        device: torch.device,
        memory_format: torch.memory_format,
    ) -> None:
        """Put the targets on the device; `mean` and `std` are of images, per channel, of pixels scaled to 0..1."""
        numbers = np.issubdtype(targets.dtype, np.floating)
        self.device = device
        self.targets = torch.tensor(targets, dtype=torch.float32 if numbers else torch.int64, device=device)
        self.memory_format = memory_format
        self.sample_shape = tuple(inputs.shape[1:])
        self.scale_and_shift: tuple[Tensor, Tensor] | None = None
        if inputs.dtype not in (np.uint8, torch.uint8):
            return
        assert mean is not None, "images have a mean and a standard deviation per channel"
        assert std is not None, "images have a mean and a standard deviation per channel"
        # (x / 255 - mean) / std as one multiply and one add
        scale = 1.0 / (255.0 * torch.tensor(std, dtype=torch.float64))
        shift = -torch.tensor(mean, dtype=torch.float64) / torch.tensor(std, dtype=torch.float64)
        self.scale_and_shift = self._per_pixel(scale), self._per_pixel(shift)

    def __len__(self) -> int:
        return len(self.targets)

    @abstractmethod
    def parts(self, batches: Sequence[Tensor]) -> Generator[Part, None, None]:
        """Yield a part for each batch of places of samples, int64 (n,) on the CPU; to be closed if left early.

        Nothing in it waits for the device.
        """

    @abstractmethod
    def unpack(self, found: Tensor) -> Tensor:
        """Return the inputs, (B, C, H, W) or (B, F), that the first half of a part stands for."""

    def ready(self, part: Part, augment: Augment | None = None) -> tuple[Tensor, Tensor]:
        """Return float32 inputs, images normalised, and targets (B,); `augment` changes images before that."""
        found, targets = part
        inputs = self.unpack(found)
        if self.scale_and_shift is None:
            return inputs, targets
        if augment is not None:
            inputs = augment(inputs)
        scale, shift = self.scale_and_shift
        pixels = inputs.float()
        return torch.addcmul(shift, pixels, scale, out=pixels), targets

    def batch(self, indices: Tensor | slice, augment: Augment | None = None) -> tuple[Tensor, Tensor]:
        """Return what `ready` does of the samples chosen."""
        chosen = torch.arange(len(self))[indices] if isinstance(indices, slice) else indices.cpu()
        with closing(self.parts([chosen])) as parts:
            return self.ready(next(parts), augment)

    def batches(self, batch_size: int, order: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the samples in `order`, int64 (n,) on the CPU, or else the whole split as it is."""
        order = torch.arange(len(self)) if order is None else order
        with closing(self.parts(order.split(batch_size))) as parts:
            for part in parts:
                yield self.ready(part)

    def _per_pixel(self, values: Tensor) -> Tensor:
        # Not one value per channel: of channels that are innermost there are too few to compute several at once.
        pixels = values.float().view(1, -1, 1, 1).expand(1, *self.sample_shape)
        return pixels.to(self.device).contiguous(memory_format=self.memory_format)


class DeviceSplit(BatchedSplit):
    """A split whose inputs stand on the device; a batch is gathered there."""

    def __init__(
        self,
        inputs: np.ndarray | Tensor,
        targets: np.ndarray,
        *,
        rows: np.ndarray | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        device: torch.device,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        """Copy the arrays to the device; `mean` and `std` are of images, per channel, of pixels scaled to 0..1.

        Inputs that are a tensor stand on the device already and are not copied: several splits can be `rows` (N,) of
        the same inputs. The targets are those of the split alone. A network computes the same from any memory format.
        """
        super().__init__(inputs, targets, mean=mean, std=std, device=device, memory_format=memory_format)
        self.inputs = inputs if isinstance(inputs, Tensor) else put_inputs(inputs, device, memory_format)
        self.rows = None if rows is None else torch.tensor(rows, dtype=torch.int64, device=device)

    @classmethod
    def joined(cls, splits: Sequence[BatchedSplit]) -> "DeviceSplit | None":
        """Return all samples of the splits, one split after the other, without copying inputs.

        None where they are not rows of the same inputs on the device, or are not normalised alike.
        """
        stand = [split for split in splits if isinstance(split, DeviceSplit)]
        if len(stand) < len(splits) or any(
            each.inputs is not stand[0].inputs or not _alike(each, stand[0]) for each in stand
        ):
            return None
        whole = copy(stand[0])
        everything = torch.arange(len(whole.inputs), device=whole.inputs.device)
        whole.rows = torch.cat([everything if each.rows is None else each.rows for each in stand])
        whole.targets = torch.cat([each.targets for each in stand])
        return whole

    def parts(self, batches: Sequence[Tensor]) -> Generator[Part, None, None]:
        """Yield where the inputs of each batch stand, with its targets."""
        sizes = [len(batch) for batch in batches]
        places = send(torch.cat(tuple(batches)), self.device)
        targets = self.targets.index_select(0, places)
        if self.rows is not None:
            places = self.rows.index_select(0, places)
        yield from zip(places.split(sizes), targets.split(sizes), strict=True)

    def unpack(self, found: Tensor) -> Tensor:
        """Gather the inputs that stand at the places `found`."""
        # By whole samples as flat rows: four times as fast on a CPU as indexing the four dimensions.
        return _as_samples(_as_rows(self.inputs).index_select(0, found), self.inputs)


def put_inputs(
    inputs: np.ndarray,
    device: torch.device,
    memory_format: torch.memory_format = torch.channels_last,
    *,
    rows: np.ndarray | None = None,
) -> Tensor:
    """Copy images as uint8, in this memory format, or rows as float32, to the device; `rows` are those to be copied.

    Piece by piece: what is read from a file is not in memory twice.
    """
    images = inputs.dtype == np.uint8
    samples = len(inputs) if rows is None else len(rows)
    there = torch.empty(
        (samples, *inputs.shape[1:]),
        dtype=torch.uint8 if images else torch.float32,
        device=device,
        memory_format=memory_format if images else torch.contiguous_format,
    )
    step = max(1, _CHUNK_BYTES // max(1, inputs[:1].nbytes))
    for start in range(0, samples, step):
        chosen = slice(start, start + step)
        there[chosen] = torch.tensor(inputs[chosen if rows is None else rows[chosen]], dtype=there.dtype)
    return there


def send(values: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on the device, without waiting for a GPU."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def _as_rows(inputs: Tensor) -> Tensor:
    """Return a view (N, values per sample) in the order that they have in memory; a copy where they are scattered."""
    if inputs.dim() == 4 and not inputs.is_contiguous():
        inputs = inputs.permute(0, 2, 3, 1)
    return inputs.reshape(len(inputs), -1)


def _as_samples(rows: Tensor, like: Tensor) -> Tensor:
    """Return a view of what `_as_rows` made of samples `like` these, in their memory format."""
    if like.dim() == 4 and not like.is_contiguous():
        _, channels, height, width = like.shape
        return rows.view(-1, height, width, channels).permute(0, 3, 1, 2)
    return rows.view(-1, *like.shape[1:])


def _alike(one: DeviceSplit, other: DeviceSplit) -> bool:
    """Tell whether both normalise their inputs in the same way."""
    if one.scale_and_shift is None or other.scale_and_shift is None:
        return one.scale_and_shift is other.scale_and_shift
    return all(map(torch.equal, one.scale_and_shift, other.scale_and_shift))
