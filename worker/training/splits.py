"""The splits of a job: put on its device, where what several replicas are trained on stands once, and evaluated."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worker.datasets import PreparedData, Split
from worker.training.data import BatchedSplit, DeviceSplit, put_inputs
from worker.training.loop import Evaluation, evaluate
from worker.training.state import TrainState
from worker.training.streaming import StreamedSplit

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Splits:
    """What one training uses; validation is the very test split where the spec says so, None where it has none."""

    train: BatchedSplit
    validation: BatchedSplit | None
    test: BatchedSplit


def put_splits(
    data: Sequence[PreparedData], device: torch.device, *, memory_format: torch.memory_format, limit_bytes: int
) -> list[Splits]:
    """Return the splits of each replica, in this order, with what is equal in memory once.

    Images are laid out in the memory format of their network. Where they take more than the limit, on the device, they
    stay where they are, and batches are read while the network trains.
    """
    place = _Place(device, memory_format, shares=len(data) > 1)
    wanted = place.bytes_of(data)
    if wanted > limit_bytes:
        _log.warning("The data take %s of memory, and may take %s: they are read batch by batch.", wanted, limit_bytes)
    return [place.put(each, streamed=wanted > limit_bytes) for each in data]


@dataclass(frozen=True)
class Evaluations:
    """Each split of one training measured whole, in eval mode; the test split with its probabilities."""

    train: Evaluation
    validation: Evaluation | None
    test: Evaluation


def evaluate_splits(state: TrainState, splits: Splits) -> Evaluations:
    """Measure each split once; raise NonFiniteLoss as `evaluate`."""
    trained = evaluate(state, splits.train)
    tested = evaluate(state, splits.test, probabilities=True)
    validated = tested if splits.validation is splits.test else None
    if splits.validation is not None and validated is None:
        validated = evaluate(state, splits.validation)
    return Evaluations(trained, validated, tested)


class _Place:
    """The device, and the inputs that were put there."""

    def __init__(self, device: torch.device, memory_format: torch.memory_format, *, shares: bool) -> None:
        self._device = device
        self._memory_format = memory_format
        self._shares = shares
        self._inputs: dict[int, Tensor] = {}  # by the identity of the array, which lives as long as its data

    def bytes_of(self, data: Sequence[PreparedData]) -> int:
        """Return what the inputs of all splits would take on the device."""
        splits = [split for each in data for split in (each.train, each.validation, each.test) if split is not None]
        if self._shares:
            return sum({id(split.all_inputs): split.all_inputs.nbytes for split in splits}.values())
        return sum({id(split): split.bytes_of_inputs for split in splits}.values())

    def put(self, data: PreparedData, *, streamed: bool) -> Splits:
        """Return the splits of one training; of inputs that are `streamed`, nothing is read yet."""
        test = self._put(data.test, data, streamed)
        validation = None if data.validation is None else test
        if data.validation is not None and data.validation is not data.test:
            validation = self._put(data.validation, data, streamed)
        return Splits(self._put(data.train, data, streamed), validation, test)

    def _put(self, split: Split, data: PreparedData, streamed: bool) -> BatchedSplit:
        rows = split.rows
        scale: dict[str, Any] = {"mean": data.mean, "std": data.std}
        place: dict[str, Any] = {"device": self._device, "memory_format": self._memory_format}
        if streamed:
            return StreamedSplit(split.all_inputs, split.targets, rows=rows, **scale, **place)
        if self._shares:
            return DeviceSplit(self._shared(split), split.targets, rows=rows, **scale, **place)
        # Rows of shared inputs are gathered for each evaluation too: one training alone has a copy of its own.
        inputs = put_inputs(split.all_inputs, self._device, self._memory_format, rows=rows)
        return DeviceSplit(inputs, split.targets, **scale, **place)

    def _shared(self, split: Split) -> Tensor:
        known = id(split.all_inputs)
        if known not in self._inputs:
            self._inputs[known] = put_inputs(split.all_inputs, self._device, self._memory_format)
        return self._inputs[known]
