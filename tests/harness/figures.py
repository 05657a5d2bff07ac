"""The numbers of a finished job that no fault may change: epochs, weights and result, to be compared bit for bit."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from harness.service import Service

_OF_EPOCHS = (
    "epoch, train_loss, train_accuracy, validation_loss, validation_accuracy, learning_rate, penalty, replicas::text"
)


@dataclass(frozen=True)
class Figures:
    """What a training came to; two of one spec are equal, however often one of them was disturbed."""

    epochs: tuple[tuple[Any, ...], ...]
    tensors: str  # sha256 over those of the last checkpoint: weights, optimiser and generators
    result: str  # losses, accuracies and the rest that was measured of the splits


def figures_of(service: Service, job_id: str) -> Figures:
    """Return the figures of a job that has succeeded."""
    rows = service.rows(f"SELECT {_OF_EPOCHS} FROM epochs WHERE job_id = %s ORDER BY epoch", job_id)
    (last,) = service.rows("SELECT checkpoint FROM epochs WHERE job_id = %s ORDER BY epoch DESC LIMIT 1", job_id)
    (result,) = service.rows("SELECT body FROM results WHERE job_id = %s", job_id)
    measured = {name: result["body"][name] for name in ("loss", "accuracy")}
    loaded = torch.load(service.stack.artifacts / job_id / last["checkpoint"], weights_only=True)
    return Figures(
        epochs=tuple(tuple(row.values()) for row in rows),
        tensors=_sha256(loaded["state"]),
        result=json.dumps(measured, sort_keys=True),
    )


def _sha256(state: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    for place, tensor in _tensors(state):
        digest.update(f"{place} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _tensors(state: Any, place: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors with their places; times and other plain values differ between two runs."""
    match state:
        case torch.Tensor():
            yield place, state
        case dict():
            for key in state:
                yield from _tensors(state[key], f"{place}.{key}")
        case list() | tuple():
            for number, item in enumerate(state):
                yield from _tensors(item, f"{place}.{number}")
