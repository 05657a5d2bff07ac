"""Several replicas stacked to one network and one optimiser: a step of all of them at once."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from models.training_spec import TrainingSpec
from worker.training.data import Part
from worker.training.optimizers import build_optimizer
from worker.training.precision import autocast
from worker.training.state import TrainState
from worker.training.step import set_learning_rate, sum_of_squares

_STEPS_DONE = "step"  # in the state of an optimiser: equal in all replicas, and the one value that is not per element
_CLIPPING_EPSILON = 1e-6  # of torch.nn.utils.clip_grad_norm_


class Stacked:
    """Networks and optimisers of several replicas as one of each: every tensor has the replicas as its first dimension.

    The optimisers of a spec change each element by itself, so that the stacked one does to each replica what its own
    would. A call is a step of all of them.
    """

    def __init__(
        self,
        states: Sequence[TrainState],
        training: TrainingSpec,
        ready: Callable[[Part], tuple[Tensor, Tensor]],
    ) -> None:
        """Stack the states; `ready` makes inputs (R, B, ...) and targets (R, B) of a part."""
        self._states = states
        self._training = training
        self._ready = ready
        self.network = states[0].network  # computes with the weights that it is given
        self.device = states[0].device
        stacked, _ = stack_module_state([state.network for state in states])
        held = nn.ParameterList(stacked.values())
        self._parameters = dict(zip(stacked, held, strict=True))
        self._compute = vmap(self._compute_one)
        self.optimizer = build_optimizer(held, training.optimizer)
        self._stack_optimizers()

    def __call__(self, part: Part, rate: float) -> Tensor:
        """Descend at this learning rate; return mean loss, penalty and hits of each replica, float32 (3, R)."""
        set_learning_rate(self.optimizer, rate)
        return self.descend(part)

    def descend(self, part: Part) -> Tensor:
        """Make the step at the learning rate that the optimiser has; nothing in it waits for the device."""
        self.optimizer.zero_grad()
        minimised, figures = self._compute(self._parameters, *self._ready(part))
        # The gradient of a sum of terms of which each depends on one replica is that of each.
        minimised.sum().backward()
        if self._training.gradient_clip_norm is not None:
            _clip_each(list(self._parameters.values()), self._training.gradient_clip_norm)
        self.optimizer.step()
        return figures.T

    def write_back(self) -> None:
        """Give each replica the weights and the optimiser's state that it now has."""
        rate = self.optimizer.param_groups[0]["lr"]
        for replica, state in enumerate(self._states):
            set_learning_rate(state.optimizer, rate)
            for own, stacked in zip(state.network.parameters(), self._parameters.values(), strict=True):
                with torch.no_grad():
                    own.copy_(stacked[replica])
                if kept := self.optimizer.state[stacked]:
                    state.optimizer.state[own] = {
                        name: value.clone() if name == _STEPS_DONE else value[replica].clone()
                        for name, value in kept.items()
                    }

    def _compute_one(self, parameters: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is minimised and the figures of one replica on its batch; see `EagerStep.descend`."""
        state, l2_penalty = self._states[0], self._training.l2_penalty
        with autocast(state.precision, self.device):
            outputs: Tensor = functional_call(self.network, parameters, inputs)
        outputs = outputs.float()
        loss = state.objective.loss(outputs, targets)
        penalty = l2_penalty * sum_of_squares(parameters.values()) if l2_penalty else torch.zeros_like(loss)
        minimised = state.objective.minimised(loss, outputs, targets) + penalty
        hits = state.objective.hits(state.objective.predictions(outputs), targets)
        return minimised, torch.stack([loss, penalty, hits.to(loss.dtype)]).detach()

    def _stack_optimizers(self) -> None:
        parameters = zip(*(state.network.parameters() for state in self._states), strict=True)
        for stacked, own in zip(self._parameters.values(), parameters, strict=True):
            kept: list[dict[str, Any]] = [
                state.optimizer.state.get(parameter, {}) for state, parameter in zip(self._states, own, strict=True)
            ]
            self.optimizer.state[stacked] = {
                name: value.clone() if name == _STEPS_DONE else torch.stack([each[name] for each in kept])
                for name, value in kept[0].items()
            }


def _clip_each(parameters: Sequence[Tensor], max_norm: float) -> None:
    """Scale the gradients of each replica as `clip_grad_norm_` does those of its network alone."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch.stack([torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients])
    factors = (max_norm / (torch.linalg.vector_norm(norms, dim=0) + _CLIPPING_EPSILON)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factors.view(-1, *[1] * (gradient.dim() - 1)))
