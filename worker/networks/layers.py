"""Layers as data -> `nn.Module`: one builder per layer kind, the same list that `models/network.py` counts."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from models import layers as data
from models.network import projection, summarise

_NormModule = nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm


class Block(nn.Module):
    """What its layers make of the input, plus the input, through the projection where there is one."""

    def __init__(self, layers: nn.Sequential, projection: nn.Module | None) -> None:
        super().__init__()
        self.layers = layers
        self.projection = projection

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (batch, *shape) to (batch, *shape of the layers' output)."""
        kept = inputs if self.projection is None else self.projection(inputs)
        output: Tensor = self.layers(inputs) + kept
        return output


class Residual(nn.Module):
    """Its blocks one after the other, each applied `applications` times; a shared block stands, and is saved, once."""

    def __init__(self, blocks: Sequence[Block], applications: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.applications = applications

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (batch, *shape) to (batch, *shape of the last block's output)."""
        for block in self.blocks:
            for _ in range(self.applications):
                inputs = block(inputs)
        return inputs


def build(layers: Sequence[data.Layer], input_shape: data.Shape) -> nn.Sequential:
    """Build the network for samples of `input_shape`; layer i of the list is module i.

    The weights come from torch's global generator, in the order of the list. Raises LayerDoesNotFit and
    NetworkTooLarge as `models.network.summarise`.
    """
    summary = summarise(layers, input_shape)
    modules = [
        _BUILDERS[type(layer)](layer, place.input_shape) for layer, place in zip(layers, summary.layers, strict=True)
    ]
    return nn.Sequential(*modules)


def _conv2d(layer: data.Conv2d, shape: data.Shape) -> nn.Module:
    module = nn.Conv2d(shape[0], layer.out_channels, layer.kernel_size, layer.stride, layer.padding, bias=layer.bias)
    return _initialised(module, layer.initialization)


def _linear(layer: data.Linear, shape: data.Shape) -> nn.Module:
    return _initialised(nn.Linear(shape[0], layer.out_features, bias=layer.bias), layer.initialization)


def _initialised(module: nn.Conv2d | nn.Linear, initialization: data.Initialization) -> nn.Module:
    if initialization == "kaiming_normal":
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
    elif initialization == "xavier_uniform":
        nn.init.xavier_uniform_(module.weight)
    return module


def _norm(make: Callable[[Any, data.Shape], _NormModule]) -> Callable[[Any, data.Shape], nn.Module]:
    def build_norm(layer: Any, shape: data.Shape) -> nn.Module:
        module = make(layer, shape)
        if layer.initial_weight is not None:
            nn.init.constant_(module.weight, layer.initial_weight)
        return module

    return build_norm


def _residual(layer: data.Residual, shape: data.Shape) -> nn.Module:
    blocks: list[Block] = []
    for _ in range(1 if layer.share_weights else layer.repeat):
        inside = build(layer.layers, shape)
        output = summarise(layer.layers, shape).output_shape
        added = projection(shape, output)
        blocks.append(Block(inside, None if added is None else _BUILDERS[type(added)](added, shape)))
        shape = output
    return Residual(blocks, layer.repeat if layer.share_weights else 1)


_BUILDERS: dict[type[Any], Callable[[Any, data.Shape], nn.Module]] = {
    data.Conv2d: _conv2d,
    data.Linear: _linear,
    data.MaxPool2d: lambda layer, shape: nn.MaxPool2d(layer.kernel_size, layer.stride, layer.padding),
    data.AvgPool2d: lambda layer, shape: nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding),
    data.AdaptiveAvgPool2d: lambda layer, shape: nn.AdaptiveAvgPool2d(layer.output_size),
    data.GlobalAvgPool2d: lambda layer, shape: nn.AdaptiveAvgPool2d(1),
    data.Flatten: lambda layer, shape: nn.Flatten(),
    data.Relu: lambda layer, shape: nn.ReLU(),
    data.LeakyRelu: lambda layer, shape: nn.LeakyReLU(layer.negative_slope),
    data.Gelu: lambda layer, shape: nn.GELU(),
    data.Tanh: lambda layer, shape: nn.Tanh(),
    data.Sigmoid: lambda layer, shape: nn.Sigmoid(),
    data.Softmax: lambda layer, shape: nn.Softmax(dim=1),
    data.LogSoftmax: lambda layer, shape: nn.LogSoftmax(dim=1),
    data.Dropout: lambda layer, shape: nn.Dropout(layer.probability),
    data.Dropout2d: lambda layer, shape: nn.Dropout2d(layer.probability),
    data.BatchNorm1d: _norm(lambda layer, shape: nn.BatchNorm1d(shape[0])),
    data.BatchNorm2d: _norm(lambda layer, shape: nn.BatchNorm2d(shape[0])),
    data.LayerNorm: _norm(lambda layer, shape: nn.LayerNorm(shape)),
    data.GroupNorm: _norm(lambda layer, shape: nn.GroupNorm(layer.groups, shape[0])),
    data.Residual: _residual,
}
