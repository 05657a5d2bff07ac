"""A split too large for the device: a thread reads the next batches from a file while the device computes."""

import os
import threading
import weakref
from collections.abc import Callable, Generator, Sequence
from queue import SimpleQueue

import numpy as np
import torch
from torch import Tensor

from models.errors import DataCacheDamaged
from worker.training.data import BatchedSplit, Part, send

_BATCHES_AHEAD = 4  # read and waiting, at most


class StreamedSplit(BatchedSplit):
    """A split whose inputs stay where they are, memory-mapped as a rule; it has the batches of a `DeviceSplit`."""

    def __init__(
        self,
        inputs: np.ndarray,
        targets: np.ndarray,
        *,
        rows: np.ndarray | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        device: torch.device,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        """Keep the inputs, of which the split is the `rows` (N,); only the targets, of the split alone, are copied.

        Raises DataCacheDamaged naming the file that the inputs are mapped from where it cannot be opened, or has been
        cut short since.
        """
        super().__init__(inputs, targets, mean=mean, std=std, device=device, memory_format=memory_format)
        self._inputs = inputs
        self._rows = rows
        self._file = _MappedFile(inputs) if isinstance(inputs, np.memmap) else None

    def parts(self, batches: Sequence[Tensor]) -> Generator[Part, None, None]:
        """Yield the inputs of each batch with its targets; raise DataCacheDamaged where the file has been changed."""
        reading = _Reading(self._read, [places.numpy() for places in batches])
        try:
            for places in batches:
                inputs = reading.take().to(self.device, non_blocking=True)
                yield inputs, self.targets.index_select(0, send(places, self.device))
        finally:
            reading.stop()

    def unpack(self, found: Tensor) -> Tensor:
        """Return the inputs: they are what was read."""
        return found

    def _read(self, places: np.ndarray) -> Tensor:
        """Return the inputs at these places of the split on the CPU, pinned for a GPU."""
        if self._file is not None:
            self._file.require_unchanged()
        rows = places if self._rows is None else self._rows[places]
        images = self.scale_and_shift is not None
        read = torch.empty(
            (len(rows), *self.sample_shape),
            dtype=torch.uint8 if images else torch.float32,
            memory_format=self.memory_format if images else torch.contiguous_format,
            pin_memory=self.device.type == "cuda",
        )
        # By numpy, in this thread alone: torch would start threads of its own beside those of the training.
        np.copyto(read.numpy(), self._inputs[rows])
        if self._file is not None:
            self._file.require_unchanged()  # what was read is what was there as the training began
        return read


class _MappedFile:
    """The file behind mapped inputs: to read beyond its end, where it was cut short, would end the process."""

    def __init__(self, inputs: "np.memmap[tuple[int, ...], np.dtype[np.generic]]") -> None:
        self._path = inputs.filename
        try:
            # Held open: a file that is removed, or replaced by another, is read to the end all the same.
            self._descriptor = os.open(str(self._path), os.O_RDONLY)
        except OSError as error:
            raise DataCacheDamaged(f"{self._path} cannot be read any more: {error.strerror}.") from error
        weakref.finalize(self, os.close, self._descriptor)
        self._as_found = size, _ = self._state()
        if size < inputs.offset + inputs.nbytes:
            raise DataCacheDamaged(f"{self._path} was cut short before it was read.")

    def require_unchanged(self) -> None:
        """Raise DataCacheDamaged where the file has been written to, or cut short."""
        if self._state() != self._as_found:
            raise DataCacheDamaged(f"{self._path} was changed while it was read.")

    def _state(self) -> tuple[int, int]:
        """Return what no write to the file leaves as it was, and its removal does: its size and its time."""
        found = os.fstat(self._descriptor)
        return found.st_size, found.st_mtime_ns


class _Reading:
    """A thread that reads batch after batch, a few ahead of who takes them."""

    def __init__(self, read: Callable[[np.ndarray], Tensor], batches: Sequence[np.ndarray]) -> None:
        self._read = read
        self._batches = batches
        self._found: SimpleQueue[Tensor | Exception] = SimpleQueue()
        self._free_places = threading.Semaphore(_BATCHES_AHEAD)
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
        self._thread.start()

    def take(self) -> Tensor:
        """Return the next batch, waiting for it; raise what went wrong with it."""
        found = self._found.get()
        self._free_places.release()
        if isinstance(found, Exception):
            raise found
        return found

    def stop(self) -> None:
        """End the thread, and wait for its end."""
        self._stopped = True
        self._free_places.release()
        self._thread.join()

    def _run(self) -> None:
        try:
            for places in self._batches:
                self._free_places.acquire()
                if self._stopped:
                    return
                self._found.put(self._read(places))
        except Exception as error:  # noqa: BLE001 - who waits for the batch raises it
            self._found.put(error)
