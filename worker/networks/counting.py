"""Shapes, parameters and MACs of a module whose layers are not known as data: watched while a sample passes through."""

import copy
import math
import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.layers import Shape
from models.network import LayerSummary, NetworkDoesNotFit, NetworkSummary

# What Conv and Linear become; the products inside attention are batched (bmm) and by convention not counted.
_COUNTED = (torch.ops.aten.convolution, torch.ops.aten.mm, torch.ops.aten.addmm)


def summarise_module(network: nn.Module, input_shape: Shape, *, name: str) -> NetworkSummary:
    """Count a module for samples of `input_shape` (without the batch) by an evaluation pass of one sample.

    A layer is a module that calls no other, or has parameters or MACs of its own beside those it calls. The pass
    computes shapes alone. Raises NetworkDoesNotFit, with the network's `name`, where the sample does not pass.
    """
    watched = _without_data(network).eval()
    with FlopCounterMode(display=False) as counter, _Watch(watched, counter) as watch:
        try:
            output = watched(torch.empty(1, *input_shape, device="meta"))
        except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise NetworkDoesNotFit(f"{name} cannot take samples of shape {input_shape}: {reason}") from None
    places = watch.places()
    return NetworkSummary(
        layers=places,
        output_shape=_shape_of(output),
        # Counted where the weights are; a copy might untie what is shared.
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        macs=sum(place.macs for place in places),
        largest_activations=max(math.prod(place.input_shape) + math.prod(place.output_shape) for place in places),
    )


@dataclass
class _Calls:
    """What was seen of one module: its first shapes, and its own MACs over all its calls."""

    input_shape: Shape
    output_shape: Shape = ()
    times: int = 0
    macs: int = 0
    calls_others: bool = False


@dataclass
class _Frame:
    """A call that is going on: the MACs counted when it began, and those of the calls inside it."""

    seen: _Calls
    started_at: int
    inside: int = 0


@dataclass
class _Watch:
    """Follows the calls of a network's modules, each inside the one that calls it."""

    network: nn.Module
    counter: FlopCounterMode
    calls: dict[nn.Module, _Calls] = field(default_factory=dict)
    going_on: list[_Frame] = field(default_factory=list)
    handles: list[Any] = field(default_factory=list)

    def __enter__(self) -> "_Watch":
        for module in self.network.modules():
            self.handles.append(module.register_forward_pre_hook(self._begin))
            self.handles.append(module.register_forward_hook(self._end))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def places(self) -> tuple[LayerSummary, ...]:
        """Return the layers in the order of their first call, every parameter with the innermost module that has it."""
        names = {module: name for name, module in self.network.named_modules()}
        own = self._own_parameters()
        layers = [
            (module, seen) for module, seen in self.calls.items() if not seen.calls_others or own[module] or seen.macs
        ]
        return tuple(
            LayerSummary(
                index=index,
                loc=names[module],
                kind=_kind(module),
                input_shape=seen.input_shape,
                output_shape=seen.output_shape,
                parameters=own[module],
                macs=seen.macs,
                applied=seen.times,
            )
            for index, (module, seen) in enumerate(layers)
        )

    def _begin(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self.going_on:
            self.going_on[-1].seen.calls_others = True
        seen = self.calls.setdefault(module, _Calls(_shape_of(inputs)))
        self.going_on.append(_Frame(seen, self._macs_so_far()))

    def _end(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        frame = self.going_on.pop()
        macs = self._macs_so_far() - frame.started_at
        frame.seen.output_shape = frame.seen.output_shape or _shape_of(output)
        frame.seen.times += 1
        frame.seen.macs += macs - frame.inside
        if self.going_on:
            self.going_on[-1].inside += macs

    def _macs_so_far(self) -> int:
        counted = self.counter.flop_counts["Global"]
        return sum(counted.get(operation, 0) for operation in _COUNTED) // 2

    def _own_parameters(self) -> dict[nn.Module, int]:
        """Count each parameter once, for the innermost called module that holds it, itself or in one not called."""
        counted: set[int] = set()
        own: dict[nn.Module, int] = {}
        for module in reversed(list(self.network.modules())):
            if module in self.calls:
                new = {id(parameter): parameter.numel() for parameter in module.parameters()}
                own[module] = sum(number for key, number in new.items() if key not in counted)
                counted |= new.keys()
        return own


def _without_data(network: nn.Module) -> nn.Module:
    """Copy a network to the meta device, without ever copying its weights."""
    empty: dict[int, Any] = {
        id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta")) for parameter in network.parameters()
    }
    empty |= {id(buffer): torch.empty_like(buffer, device="meta") for buffer in network.buffers()}
    return copy.deepcopy(network, empty)


def _shape_of(value: Any) -> Shape:
    """Return the shape, without the batch, of a tensor or of the first of several."""
    while not isinstance(value, Tensor):
        value = value[0]
    return tuple(value.shape[1:])


def _kind(module: nn.Module) -> str:
    """Return a module's kind as a layer list would have it: `BatchNorm2d` is `batch_norm2d`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", type(module).__name__).lower()
