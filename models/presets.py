"""Networks by name: functions from a few parameters to a layer list, and the list itself as `sequential`."""

from typing import Annotated, Literal

from pydantic import Field

from models.network import (
    MAX_LAYERS,
    BatchNorm2d,
    Channels,
    Conv2d,
    Dropout,
    Dropout2d,
    Flatten,
    Layer,
    Linear,
    MaxPool2d,
    Probability,
    Relu,
    Sigmoid,
    Tanh,
)
from models.validation import Strict

ActivationName = Literal["relu", "tanh", "sigmoid"]
_ACTIVATIONS: dict[ActivationName, type[Relu] | type[Tanh] | type[Sigmoid]] = {
    "relu": Relu,
    "tanh": Tanh,
    "sigmoid": Sigmoid,
}


def _when(wanted: bool, layer: Layer) -> list[Layer]:
    return [layer] if wanted else []


class Lenet(Strict):
    """LeNet-5 with ReLU and max pooling, as in the reference runs; made for 32x32 inputs."""

    name: Literal["lenet"] = "lenet"
    dropout: Probability = Field(default=0.0, description="Dropout after the second ReLU.")
    batch_norm: bool = Field(default=False, description="Batch norm between the first convolution and its ReLU.")

    def layer_list(self, classes: int) -> list[Layer]:
        """Return the layer list for this many classes."""
        return [
            Conv2d(out_channels=6, kernel_size=5),
            *_when(self.batch_norm, BatchNorm2d()),
            Relu(),
            MaxPool2d(),
            Conv2d(out_channels=16, kernel_size=5),
            Relu(),
            *_when(self.dropout > 0, Dropout(probability=self.dropout)),
            MaxPool2d(),
            Conv2d(out_channels=120, kernel_size=5),
            Relu(),
            Flatten(),
            Linear(out_features=84),
            Relu(),
            Linear(out_features=classes),
        ]


class Cnn(Strict):
    """Convolutions of one kernel size, each halved by max pooling, then hidden linear layers."""

    name: Literal["cnn"] = "cnn"
    channels: list[Channels] = Field(default=[32, 16], min_length=1, max_length=16)
    kernel_size: Annotated[int, Field(ge=1, le=31)] = 3
    activation: ActivationName = "relu"
    batch_norm: bool = Field(default=False, description="Batch norm between each convolution and its activation.")
    dropout2d: Probability = Field(default=0.0, description="Dropout of whole channels after each pooling.")
    hidden: list[Channels] = Field(default=[32], max_length=16)
    hidden_activation: ActivationName | None = Field(default=None, description="Defaults to `activation`.")

    def layer_list(self, classes: int) -> list[Layer]:
        """Return the layer list for this many classes; convolutions are padded by half their kernel."""
        activation = _ACTIVATIONS[self.activation]
        layers: list[Layer] = []
        for channels in self.channels:
            layers += [
                Conv2d(out_channels=channels, kernel_size=self.kernel_size, padding=self.kernel_size // 2),
                *_when(self.batch_norm, BatchNorm2d()),
                activation(),
                MaxPool2d(),
                *_when(self.dropout2d > 0, Dropout2d(probability=self.dropout2d)),
            ]
        hidden = _hidden_layers(self.hidden, self.hidden_activation or self.activation, dropout=0.0)
        return [*layers, Flatten(), *hidden, Linear(out_features=classes)]


class Mlp(Strict):
    """A multi-layer perceptron over the flattened input."""

    name: Literal["mlp"] = "mlp"
    hidden: list[Channels] = Field(default=[128], max_length=64)
    activation: ActivationName = "relu"
    dropout: Probability = Field(default=0.0, description="Dropout after each hidden activation.")

    def layer_list(self, classes: int) -> list[Layer]:
        """Return the layer list for this many classes."""
        return [Flatten(), *_hidden_layers(self.hidden, self.activation, self.dropout), Linear(out_features=classes)]


class Sequential(Strict):
    """A layer list of the user's own; the last layer must put out one logit per class."""

    name: Literal["sequential"] = "sequential"
    layers: list[Layer] = Field(min_length=1, max_length=MAX_LAYERS)

    def layer_list(self, classes: int) -> list[Layer]:
        """Return the list as it was given."""
        return list(self.layers)


Network = Annotated[Lenet | Cnn | Mlp | Sequential, Field(discriminator="name")]


def _hidden_layers(sizes: list[int], activation: ActivationName, dropout: float) -> list[Layer]:
    layers: list[Layer] = []
    for size in sizes:
        layers += [Linear(out_features=size), _ACTIVATIONS[activation]()]
        layers += _when(dropout > 0, Dropout(probability=dropout))
    return layers
