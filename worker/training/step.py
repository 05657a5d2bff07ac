"""One step of a training: a batch forward and backward, and the optimiser's step, with the figures that are kept."""

from collections.abc import Iterable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from models.training_spec import TrainingSpec
from worker.training.augmentation import augment
from worker.training.data import BatchedSplit, Part
from worker.training.state import TrainState


class Step(Protocol):
    """Makes a step with a part of the split that is trained on."""

    def __call__(self, part: Part, rate: float) -> Tensor:
        """Descend at this learning rate; return mean loss, penalty and hits, float32 (3,), on the device."""
        ...


class EagerStep:
    """A step that runs operation by operation."""

    def __init__(self, state: TrainState, training: TrainingSpec, train: BatchedSplit) -> None:
        """Prepare to train `state` on parts of `train`."""
        self._state = state
        self._training = training
        self._train = train
        self._network = state.network  # what a batch goes through: the network itself, or what is around it
        wanted = training.augmentation
        self._change = None if wanted is None else partial(augment, wanted=wanted, generator=state.augmenter)

    def __call__(self, part: Part, rate: float) -> Tensor:
        """Descend at this learning rate; return mean loss, penalty and hits, float32 (3,), on the device."""
        set_learning_rate(self._state.optimizer, rate)
        return self.descend(part)

    def descend(self, part: Part) -> Tensor:
        """Make the step at the learning rate that the optimiser has; nothing in it waits for the device."""
        state, objective = self._state, self._state.objective
        inputs, targets = self._train.ready(part, self._change)
        outputs = state.forward(inputs, self._network)
        loss, minimised = self._losses(outputs, targets)
        penalty = torch.zeros_like(loss)
        if self._training.l2_penalty:
            penalty = self._training.l2_penalty * squared_weights(state.network)
            minimised = minimised + penalty
        self._follow_gradient(minimised)
        hits = objective.hits(objective.predictions(outputs.detach()), targets)
        # One tensor: a batch has fewer samples than float32 counts exactly.
        return torch.stack([loss.detach(), penalty.detach(), hits.to(loss.dtype)])

    def _losses(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss that is reported, and what is minimised of the data."""
        loss = self._state.objective.loss(outputs, targets)
        return loss, self._state.objective.minimised(loss, outputs, targets)

    def _follow_gradient(self, minimised: Tensor) -> None:
        """Step against the gradient; in float16 the step is left out where the scaled gradient overflowed."""
        state, clip_norm = self._state, self._training.gradient_clip_norm
        state.optimizer.zero_grad()
        state.scaler.scale(minimised).backward()
        if clip_norm is not None:
            state.scaler.unscale_(state.optimizer)
            clip_grad_norm_(state.network.parameters(), clip_norm)
        state.scaler.step(state.optimizer)
        state.scaler.update()


def set_learning_rate(optimizer: Optimizer, rate: float | Tensor) -> None:
    """Let the optimiser's next step have this rate, a number or a tensor () that it reads from the device."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def squared_weights(network: nn.Module) -> Tensor:
    """Return the sum of squares of all trainable parameters, biases included, as the reference runs have it."""
    return sum_of_squares(parameter for parameter in network.parameters() if parameter.requires_grad)


def sum_of_squares(tensors: Iterable[Tensor]) -> Tensor:
    """Return the sum of squares of all elements of all tensors."""
    return torch.stack([tensor.square().sum() for tensor in tensors]).sum()
