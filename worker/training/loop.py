"""The training loop: `fit` calls `train_one_epoch` and `evaluate`, and yields the metrics of each epoch."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from models.errors import NonFiniteLoss
from models.faults import FaultPoint, fault_point
from models.result import EpochMetrics
from models.training_spec import TrainingSpec
from worker.training.data import BatchedSplit
from worker.training.distributed import draw_apart
from worker.training.early_stopping import better_of, patience_is_over
from worker.training.graphs import make_step
from worker.training.schedules import learning_rate
from worker.training.state import TrainState
from worker.training.step import Step, squared_weights

# Mean loss, accuracy and mean penalty of an epoch of this number.
TrainEpoch = Callable[[TrainState, TrainingSpec, BatchedSplit, int], tuple[float, float | None, float]]


@dataclass(frozen=True)
class Evaluation:
    """A split measured in eval mode: mean loss over samples, accuracy as a fraction, and what was predicted of what.

    `predictions` and `targets` are (N,): classes, or numbers on the scale that the network learned. `probabilities`
    (N,) are those of the predicted classes, where they were asked for. A regression has neither them nor an accuracy.
    """

    loss: float
    accuracy: float | None
    predictions: Tensor
    targets: Tensor
    probabilities: Tensor | None = None


def fit(
    state: TrainState,
    training: TrainingSpec,
    train: BatchedSplit,
    validation: BatchedSplit | None,
    train_epoch: TrainEpoch | None = None,
) -> Iterator[EpochMetrics]:
    """Train from where `state` stands to the last epoch, yielding each epoch's metrics after its validation.

    Losses are means over samples without the penalty. Leaving the iteration stops the training at an epoch's border;
    where the iteration ends by itself, early stopping has put the weights of the best epoch back. `train_epoch` may
    stand in for `train_one_epoch`. Raises NonFiniteLoss naming the epoch and the step.
    """
    if train_epoch is None:
        train_epoch = partial(train_one_epoch, step=make_step(state, training, train))
    if training.evaluate_before_training and not state.history:
        metrics = _measure_untrained(state, training, train, validation)
        state.history.append(metrics)
        yield metrics
    while state.next_epoch <= training.epochs and not state.stopped_early:
        metrics = _train_and_validate(state, training, train, validation, train_epoch)
        state.history.append(metrics)
        _keep_best(state, training, metrics)
        yield metrics
    state.restore_best()


def follow(state: TrainState, training: TrainingSpec, train: BatchedSplit, epochs: Iterable[int]) -> None:
    """Train, as a rank beside the first, the `epochs` that the first begins; its `fit` measures, and knows the end."""
    step = make_step(state, training, train)
    for epoch in epochs:
        draw_apart(state, training.seeds[0], epoch)
        train_one_epoch(state, training, train, epoch, step)


def train_one_epoch(
    state: TrainState, training: TrainingSpec, train: BatchedSplit, epoch: int, step: Step | None = None
) -> tuple[float, float | None, float]:
    """Go through the split once in a new order, in train mode; return mean loss, accuracy and mean penalty.

    `step` is the one of earlier epochs of the same training, where there were any.
    """
    state.ranks.begin(epoch)
    state.network.train()
    step = step or make_step(state, training, train)
    batches = torch.randperm(len(train), generator=state.sampler).split(training.batch_size)
    figures = []
    with closing(train.parts(state.ranks.own(batches))) as parts:
        for number, part in enumerate(parts):
            fault_point(FaultPoint.EPOCH)
            figures.append(step(part, rate_of_step(training, epoch, number, len(batches))))
    # Kept on the device and read once, here: a read per step would wait for the device each time.
    losses, penalties, hits = state.ranks.total(torch.stack(figures)).cpu().unbind(1)
    require_finite(losses + penalties, epoch)
    weights = torch.tensor([len(batch) for batch in batches], dtype=torch.float64) / len(train)
    return (
        float(losses.double() @ weights),
        state.objective.accuracy(hits.double().sum(), len(train)),
        float(penalties.double() @ weights),
    )


def evaluate(
    state: TrainState, split: BatchedSplit, figure: str = "loss after the last epoch", *, probabilities: bool = False
) -> Evaluation:
    """Measure the whole split in eval mode, without gradients; the network is left in eval mode.

    Raises NonFiniteLoss naming the `figure`: the last step of a training can be the one that spoils the weights.
    """
    state.network.eval()
    loss_sum = torch.zeros((), dtype=torch.float64, device=state.device)
    predictions = []
    probable = []
    with torch.no_grad():
        for inputs, targets in split.batches(state.evaluation_batch):
            outputs = state.forward(inputs)
            loss_sum += state.objective.summed_loss(outputs, targets)
            predictions.append(state.objective.predictions(outputs))
            if probabilities and (each := state.objective.probabilities(outputs)) is not None:
                probable.append(each)
    predicted = torch.cat(predictions)
    accuracy = state.objective.accuracy(state.objective.hits(predicted, split.targets), len(split))
    loss = float(loss_sum) / len(split)
    if not math.isfinite(loss):
        raise NonFiniteLoss(f"The {figure} is {loss}.")
    return Evaluation(loss, accuracy, predicted, split.targets, torch.cat(probable) if probable else None)


def measure_penalty(network: nn.Module, l2_penalty: float, figure: str = "penalty after the last epoch") -> float:
    """Return the penalty of the weights as they are; raise NonFiniteLoss naming the `figure`."""
    if not l2_penalty:
        return 0.0
    penalty = l2_penalty * float(squared_weights(network).detach())
    if not math.isfinite(penalty):
        raise NonFiniteLoss(f"The {figure} is {penalty}.")
    return penalty


def now(device: torch.device) -> float:
    """Return a monotonic time in seconds at which all work given to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _train_and_validate(
    state: TrainState,
    training: TrainingSpec,
    train: BatchedSplit,
    validation: BatchedSplit | None,
    train_epoch: TrainEpoch,
) -> EpochMetrics:
    epoch = state.next_epoch
    started = now(state.device)
    loss, accuracy, penalty = train_epoch(state, training, train, epoch)
    trained = now(state.device)
    validated = evaluate(state, validation, f"validation loss of epoch {epoch}") if validation else None
    return EpochMetrics(
        epoch=epoch,
        train_loss=loss,
        train_accuracy=accuracy,
        validation_loss=validated.loss if validated else None,
        validation_accuracy=validated.accuracy if validated else None,
        learning_rate=rate_of_step(training, epoch, 0, math.ceil(len(train) / training.batch_size)),
        penalty=penalty,
        seconds=now(state.device) - started,
        train_seconds=trained - started,
    )


def _measure_untrained(
    state: TrainState, training: TrainingSpec, train: BatchedSplit, validation: BatchedSplit | None
) -> EpochMetrics:
    started = now(state.device)
    measured = evaluate(state, train, "training loss of the untrained network")
    validated = evaluate(state, validation, "validation loss of the untrained network") if validation else None
    return EpochMetrics(
        epoch=0,
        train_loss=measured.loss,
        train_accuracy=measured.accuracy,
        validation_loss=validated.loss if validated else None,
        validation_accuracy=validated.accuracy if validated else None,
        learning_rate=0.0,
        penalty=measure_penalty(state.network, training.l2_penalty, "penalty of the untrained network"),
        seconds=now(state.device) - started,
        train_seconds=0.0,
    )


def _keep_best(state: TrainState, training: TrainingSpec, metrics: EpochMetrics) -> None:
    """Keep the weights of a best epoch, and note when to stop; the untrained network is no epoch to go back to."""
    if training.early_stopping is None:
        return
    state.best = better_of(state.best, metrics, state.network, training.early_stopping)
    hopeless = patience_is_over(state.best, metrics.epoch, training.early_stopping)
    state.stopped_early = hopeless and metrics.epoch < training.epochs


def rate_of_step(training: TrainingSpec, epoch: int, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step, which counts from 0 in an epoch, which counts from 1."""
    steps_done = (epoch - 1) * steps_per_epoch + step
    base = training.optimizer.learning_rate
    return learning_rate(training.schedule, base, steps_done, steps_per_epoch, training.epochs)


def require_finite(losses: Tensor, epoch: int) -> None:
    """Raise NonFiniteLoss naming the first step of the epoch whose loss is not finite; `losses` are (steps,)."""
    bad = (~torch.isfinite(losses)).nonzero()
    if len(bad):
        step = int(bad[0])
        raise NonFiniteLoss(
            f"The loss became {float(losses[step])} in epoch {epoch}, step {step + 1} of {len(losses)}."
        )
