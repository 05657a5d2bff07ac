"""What no fault may change of a finished job: epochs, weights, result and predictions, to be compared bit for bit."""

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
_OF_PREDICTIONS = "samples, samples_digest, indices, labels, predictions, probabilities, targets, estimates, correct"
# What the machine and the moment have a part in, and what the user said, which may differ in what changes no figure.
_NOT_OF_RESULT = ("timing", "environment", "spec")


@dataclass(frozen=True)
class Figures:
    """What a training came to; two of one spec are equal, however often one of them was disturbed."""

    epochs: tuple[tuple[Any, ...], ...]
    tensors: str  # sha256 over those of the last checkpoint: weights, optimiser and generators
    result: str  # JSON of all in it that depends on the spec and the data alone
    predictions: tuple[Any, ...]  # of each test sample


def figures_of(service: Service, job_id: str) -> Figures:
    """Return the figures of a job that has succeeded."""
    rows = service.rows(f"SELECT {_OF_EPOCHS} FROM epochs WHERE job_id = %s ORDER BY epoch", job_id)
    (last,) = service.rows("SELECT checkpoint FROM epochs WHERE job_id = %s ORDER BY epoch DESC LIMIT 1", job_id)
    (result,) = service.rows("SELECT body FROM results WHERE job_id = %s", job_id)
    (predictions,) = service.rows(f"SELECT {_OF_PREDICTIONS} FROM predictions WHERE job_id = %s", job_id)
    loaded = torch.load(service.stack.artifacts / job_id / last["checkpoint"], weights_only=True)
    return Figures(
        epochs=tuple(tuple(row.values()) for row in rows),
        tensors=_sha256(loaded["state"]),
        result=json.dumps(_without_times(result["body"]), sort_keys=True),
        predictions=tuple(predictions.values()),
    )


def _without_times(result: dict[str, Any]) -> dict[str, Any]:
    """Return the result less what differs between two runs of one spec."""
    kept = {name: value for name, value in result.items() if name not in _NOT_OF_RESULT}
    return kept | {"curves": {name: curve for name, curve in result["curves"].items() if name != "seconds"}}


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
