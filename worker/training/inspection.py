"""A look into a trained network: units that are dead, and parameters that no gradient reaches."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from worker.diagnosis import DeadUnits
from worker.training.data import BatchedSplit
from worker.training.state import TrainState

_INSPECTED_SAMPLES = 1_000  # a unit that speaks for one sample in 200 is silent over so many once in 150 times
# At most: looked at one by one, so that no training needs less memory, until all have a gradient.
_GRADIENT_SAMPLES = 64

# What puts out exactly 0 for an input that is negative enough, in the arithmetic of float32 at least.
_RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish)


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found: layers with dead units, and names of parameters."""

    dead_units: list[DeadUnits]
    parameters_without_gradient: list[str]


def inspect(state: TrainState, train: BatchedSplit) -> Inspection:
    """Look at the network as it stands with samples spread over the training split; nothing in `state` changes.

    Everything is computed in float32, whatever the precision of the job: half of it would underflow to zero.
    """
    batches = _spread(train, _INSPECTED_SAMPLES, state.evaluation_batch)
    singles = _spread(train, _GRADIENT_SAMPLES, 1)
    return Inspection(
        dead_units=dead_units(state.network, (inputs for inputs, _ in batches)),
        parameters_without_gradient=parameters_without_gradient(state.network, singles, state.objective.loss),
    )


def dead_units(network: nn.Module, batches: Iterable[Tensor]) -> list[DeadUnits]:
    """Find the rectifiers with units that put out exactly 0 for all samples of all batches, in eval mode.

    A unit is a channel of a map (batch, channels, height, width), else an element of the last dimension. The place is
    the module's path; each application of a module applied more than once is one of its own. A rectifier called as a
    function, not as a module, is not seen.
    """
    watch = _Watch()
    with _eval_mode(network), torch.no_grad(), watch.on(network):
        for inputs in batches:
            watch.begin_pass()
            network(inputs)
    return watch.dead_units()


def parameters_without_gradient(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], loss: Callable[[Tensor, Tensor], Tensor]
) -> list[str]:
    """Name the trainable parameters that `loss(outputs, targets)` does not depend on in any batch of (inputs, targets).

    That is, those whose gradient is exactly 0, or that are not used, in eval mode; no `.grad`, no running statistic and
    no random generator is touched. Batches that have nothing left to teach, with a gradient of 0 at the outputs
    already, do not count: if there are no others, no parameter is named.
    """
    silent: dict[str, Tensor] = {name: each for name, each in network.named_parameters() if each.requires_grad}
    asked = False
    with _eval_mode(network), torch.enable_grad():
        for inputs, targets in batches:
            if not silent:
                break
            outputs = network(inputs)
            if not outputs.requires_grad:
                return list(silent)
            (wanted,) = torch.autograd.grad(loss(outputs, targets), outputs, retain_graph=True)
            if wanted.any():
                asked = True
                silent = _without_gradient(silent, outputs, wanted)
    return list(silent) if asked else []


def _without_gradient(parameters: dict[str, Tensor], outputs: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """Return those of the parameters that get nothing of the gradient `wanted` at the outputs."""
    # Scaled up, or the small gradients of a network that has learned nearly all would underflow on their way.
    scaled = wanted / wanted.abs().max()
    gradients = torch.autograd.grad(outputs, list(parameters.values()), scaled, allow_unused=True)
    return {
        name: parameter
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
        if gradient is None or not gradient.any()
    }


@dataclass
class _Watch:
    """Which units of each rectifier have put out something, by path and application within a pass."""

    alive: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    applied: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def on(self, network: nn.Module) -> Iterator[None]:
        """Follow the network's rectifiers."""
        rectifiers = [(path, module) for path, module in network.named_modules() if isinstance(module, _RECTIFIERS)]
        self.kinds = {path: type(module).__name__.lower() for path, module in rectifiers}
        handles = [module.register_forward_hook(partial(self._see, path)) for path, module in rectifiers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def begin_pass(self) -> None:
        """Count the applications of each module from the first again."""
        self.applied.clear()

    def dead_units(self) -> list[DeadUnits]:
        """Return what has dead units, in the order of the applications."""
        found = []
        for (path, application), alive in self.alive.items():
            dead = len(alive) - int(alive.sum())
            place = path if (path, 2) not in self.alive else f"{path}, application {application}"
            if dead:
                found.append(DeadUnits(place, self.kinds[path], dead, len(alive)))
        return found

    def _see(self, path: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.applied[path] += 1
        unit = 1 if output.dim() == 4 else output.dim() - 1
        others = [dimension for dimension in range(output.dim()) if dimension != unit]
        speaks = torch.any(output != 0, dim=others)
        key = (path, self.applied[path])
        self.alive[key] = self.alive[key] | speaks if key in self.alive else speaks


@contextmanager
def _eval_mode(network: nn.Module) -> Iterator[None]:
    """Put the network in eval mode, and each of its modules back into the mode that it was in."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _spread(split: BatchedSplit, samples: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield at most so many samples, evenly spread in their order: a split may be sorted by class."""
    return split.batches(batch_size, torch.arange(0, len(split), math.ceil(len(split) / samples)))
