"""Layers as data -> `nn.Module`: one builder per layer kind, the same list that `models/network.py` counts."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from models import network as data


def _conv2d(layer: data.Conv2d, shape: data.Shape) -> nn.Module:
    return nn.Conv2d(shape[0], layer.out_channels, layer.kernel_size, layer.stride, layer.padding, bias=layer.bias)


def _linear(layer: data.Linear, shape: data.Shape) -> nn.Module:
    return nn.Linear(shape[0], layer.out_features, bias=layer.bias)


_BUILDERS: dict[type[Any], Callable[[Any, data.Shape], nn.Module]] = {
    data.Conv2d: _conv2d,
    data.Linear: _linear,
    data.MaxPool2d: lambda layer, shape: nn.MaxPool2d(layer.kernel_size, layer.stride),
    data.AvgPool2d: lambda layer, shape: nn.AvgPool2d(layer.kernel_size, layer.stride),
    data.GlobalAvgPool2d: lambda layer, shape: nn.AdaptiveAvgPool2d(1),
    data.Flatten: lambda layer, shape: nn.Flatten(),
    data.Relu: lambda layer, shape: nn.ReLU(),
    data.Tanh: lambda layer, shape: nn.Tanh(),
    data.Sigmoid: lambda layer, shape: nn.Sigmoid(),
    data.Dropout: lambda layer, shape: nn.Dropout(layer.probability),
    data.Dropout2d: lambda layer, shape: nn.Dropout2d(layer.probability),
    data.BatchNorm2d: lambda layer, shape: nn.BatchNorm2d(shape[0]),
}


def build(layers: Sequence[data.Layer], input_shape: data.Shape) -> nn.Sequential:
    """Build the network for samples of `input_shape`; layer i of the list is module i, initialised as PyTorch does.

    The weights come from torch's global generator. Raises LayerDoesNotFit as `models.network.summarise`.
    """
    summary = data.summarise(layers, input_shape)
    modules = [
        _BUILDERS[type(layer)](layer, place.input_shape) for layer, place in zip(layers, summary.layers, strict=True)
    ]
    return nn.Sequential(*modules)
