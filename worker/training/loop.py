"""The training loop: `fit` calls `train_one_epoch` and `evaluate`, and yields the metrics of each epoch."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.errors import NonFiniteLoss
from models.result import EpochMetrics
from models.spec import TrainingSpec
from worker.training.data import DeviceSplit
from worker.training.state import TrainState


@dataclass(frozen=True)
class Evaluation:
    """A split measured in eval mode: mean loss over samples, accuracy as a fraction, predicted classes (N,)."""

    loss: float
    accuracy: float
    predictions: Tensor


def fit(
    state: TrainState, training: TrainingSpec, train: DeviceSplit, validation: DeviceSplit | None
) -> Iterator[EpochMetrics]:
    """Train from where `state` stands to the last epoch, yielding each epoch's metrics after its validation.

    Losses are means over samples without the penalty. Leaving the iteration stops the training at an epoch's border.
    Raises NonFiniteLoss naming the epoch and the step.
    """
    for epoch in range(len(state.history) + 1, training.epochs + 1):
        started = now(state.device)
        learning_rate = state.optimizer.param_groups[0]["lr"]
        loss, accuracy, penalty = train_one_epoch(state, training, train, epoch)
        trained = now(state.device)
        validated = evaluate(state, validation, f"validation loss of epoch {epoch}") if validation else None
        metrics = EpochMetrics(
            epoch=epoch,
            train_loss=loss,
            train_accuracy=accuracy,
            validation_loss=validated.loss if validated else None,
            validation_accuracy=validated.accuracy if validated else None,
            learning_rate=learning_rate,
            penalty=penalty,
            seconds=now(state.device) - started,
            train_seconds=trained - started,
        )
        state.history.append(metrics)
        yield metrics


def train_one_epoch(
    state: TrainState, training: TrainingSpec, train: DeviceSplit, epoch: int
) -> tuple[float, float, float]:
    """Go through the split once in a new order, in train mode; return mean loss, accuracy and mean penalty."""
    state.network.train()
    order = torch.randperm(len(train), generator=state.sampler).to(state.device)
    batches = torch.split(order, training.batch_size)
    # Kept on the device and read once at the end: a read per step would wait for the device each time.
    losses = torch.zeros(len(batches), device=state.device)
    penalties = torch.zeros(len(batches), device=state.device)
    correct = torch.zeros((), dtype=torch.int64, device=state.device)
    for step, indices in enumerate(batches):
        inputs, labels = train.batch(indices)
        logits = state.network(inputs)
        loss = functional.cross_entropy(logits, labels)
        objective = loss
        if training.l2_penalty:
            penalty = training.l2_penalty * squared_weights(state.network)
            penalties[step] = penalty.detach()
            objective = loss + penalty
        state.optimizer.zero_grad()
        objective.backward()
        state.optimizer.step()
        losses[step] = loss.detach()
        correct += (logits.detach().argmax(1) == labels).sum()
    _require_finite(losses + penalties, epoch)
    weights = torch.tensor([len(indices) for indices in batches], dtype=torch.float64) / len(train)
    return (
        float(losses.cpu().double() @ weights),
        int(correct) / len(train),
        float(penalties.cpu().double() @ weights),
    )


def evaluate(state: TrainState, split: DeviceSplit, figure: str = "loss after the last epoch") -> Evaluation:
    """Measure the whole split in eval mode, without gradients; the network is left in eval mode.

    Raises NonFiniteLoss naming the `figure`: the last step of a training can be the one that spoils the weights.
    """
    state.network.eval()
    loss_sum = torch.zeros((), dtype=torch.float64, device=split.labels.device)
    predictions = []
    with torch.no_grad():
        for inputs, labels in split.batches(state.evaluation_batch):
            logits = state.network(inputs)
            loss_sum += functional.cross_entropy(logits, labels, reduction="sum")
            predictions.append(logits.argmax(1))
    predicted = torch.cat(predictions)
    correct = int((predicted == split.labels).sum())
    loss = float(loss_sum) / len(split)
    if not math.isfinite(loss):
        raise NonFiniteLoss(f"The {figure} is {loss}.")
    return Evaluation(loss, correct / len(split), predicted)


def squared_weights(network: nn.Module) -> Tensor:
    """Return the sum of squares of all trainable parameters, biases included, as the reference runs have it."""
    terms = [parameter.square().sum() for parameter in network.parameters() if parameter.requires_grad]
    return torch.stack(terms).sum()


def now(device: torch.device) -> float:
    """Return a monotonic time in seconds at which all work given to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _require_finite(losses: Tensor, epoch: int) -> None:
    bad = (~torch.isfinite(losses)).nonzero()
    if len(bad):
        step = int(bad[0])
        raise NonFiniteLoss(
            f"The loss became {float(losses[step])} in epoch {epoch}, step {step + 1} of {len(losses)}."
        )
