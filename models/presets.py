"""Networks by name: functions from a few parameters to a layer list, the list itself, and torchvision's classifiers."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError, PydanticKnownError

from models.layers import (
    MAX_LAYERS,
    BatchNorm2d,
    Channels,
    Conv2d,
    Dropout,
    Dropout2d,
    Flatten,
    Gelu,
    Initialization,
    InitialWeight,
    Layer,
    LeakyRelu,
    Linear,
    MaxPool2d,
    Probability,
    Relu,
    Residual,
    Shape,
    Sigmoid,
    SingleLayer,
    Tanh,
)
from models.torchvision_networks import Architecture, require_fits
from models.validation import Strict

ActivationName = Literal["relu", "leaky_relu", "gelu", "tanh", "sigmoid"]
BatchNormPlace = Literal["before_activation", "after_activation"]


def _batch_norm(value: Any) -> Any:
    # One error for the field, where a union has one for each of its members.
    if type(value) is not bool and value not in ("before_activation", "after_activation"):
        raise PydanticKnownError(
            "literal_error", {"expected": "true, false, 'before_activation' or 'after_activation'"}
        )
    return value


_ACTIVATIONS: dict[ActivationName, SingleLayer] = {
    "relu": Relu(),
    "leaky_relu": LeakyRelu(),
    "gelu": Gelu(),
    "tanh": Tanh(),
    "sigmoid": Sigmoid(),
}
# One component of a path, so that it names nothing outside the directory of weights.
WeightsFile = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.(pt|pth|safetensors)$", max_length=128)
]


class Lenet(Strict):
    """LeNet-5 with ReLU and max pooling, as in the reference runs; made for 32x32 inputs."""

    name: Literal["lenet"] = "lenet"
    dropout: Probability = Field(default=0.0, description="Dropout after the second ReLU.")
    batch_norm: bool = Field(default=False, description="Batch norm between the first convolution and its ReLU.")

    def layer_list(self, outputs: int) -> list[Layer]:
        """Return the layer list for this many outputs: one per class, or 1 for a regression."""
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
            Linear(out_features=outputs),
        ]


class Cnn(Strict):
    """Convolutions of one kernel size, each halved by max pooling, then hidden linear layers."""

    name: Literal["cnn"] = "cnn"
    channels: list[Channels] = Field(
        default=[32, 16], min_length=1, max_length=16, description="Output channels of each convolution."
    )
    kernel_size: Annotated[int, Field(ge=1, le=31)] = Field(
        default=3, description="Side of every kernel; maps are padded by half of it."
    )
    activation: ActivationName = Field(default="relu", description="Activation after each convolution.")
    batch_norm: Annotated[bool | BatchNormPlace, BeforeValidator(_batch_norm)] = Field(
        default=False, description="Batch norm before or after each convolution's activation; true: before."
    )
    dropout2d: Probability = Field(default=0.0, description="Dropout of whole channels after each pooling.")
    hidden: list[Channels] = Field(default=[32], max_length=16, description="Units of each hidden linear layer.")
    hidden_activation: ActivationName | None = Field(default=None, description="Defaults to `activation`.")
    dropout: Probability = Field(default=0.0, description="Dropout after each hidden activation.")

    def layer_list(self, outputs: int) -> list[Layer]:
        """Return the layer list for this many outputs: one per class, or 1 for a regression."""
        layers: list[Layer] = []
        for channels in self.channels:
            layers += [
                Conv2d(out_channels=channels, kernel_size=self.kernel_size, padding=self.kernel_size // 2),
                *_activated(self.activation, "before_activation" if self.batch_norm is True else self.batch_norm),
                MaxPool2d(),
                *_when(self.dropout2d > 0, Dropout2d(probability=self.dropout2d)),
            ]
        return [*layers, *_head(self.hidden, self.hidden_activation or self.activation, self.dropout, outputs)]


class Mlp(Strict):
    """A multi-layer perceptron over the flattened input."""

    name: Literal["mlp"] = "mlp"
    hidden: list[Channels] = Field(default=[128], max_length=64, description="Units of each hidden linear layer.")
    activation: ActivationName = Field(default="relu", description="Activation after each hidden layer.")
    dropout: Probability = Field(default=0.0, description="Dropout after each hidden activation.")

    def layer_list(self, outputs: int) -> list[Layer]:
        """Return the layer list for this many outputs: one per class, or 1 for a regression."""
        return _head(self.hidden, self.activation, self.dropout, outputs)


class Resnet(Strict):
    """A 3x3 convolution and a pooling, residual blocks of one such convolution each, a pooling, hidden linear layers.

    Its blocks can be one module applied several times (`share_weights`), as in the reference runs; the result then
    says so, and counts its parameters once.
    """

    name: Literal["resnet"] = "resnet"
    channels: Channels = Field(default=32, description="Channels of the first convolution and of every block.")
    blocks: Annotated[int, Field(ge=1, le=100)] = Field(default=10, description="Residual blocks one after the other.")
    share_weights: bool = Field(default=False, description="One block applied `blocks` times.")
    activation: ActivationName = Field(
        default="relu", description="Activation after each convolution and each hidden layer."
    )
    batch_norm: BatchNormPlace | None = Field(
        default=None, description="Batch norm in each block, whose convolution then has no bias."
    )
    stem_batch_norm: BatchNormPlace | None = Field(
        default=None, description="Batch norm after the first convolution, which keeps its bias."
    )
    dropout2d: Probability = Field(
        default=0.0, description="Dropout of whole channels after the first convolution and after each block's."
    )
    hidden: list[Channels] = Field(default=[32], max_length=16, description="Units of each hidden linear layer.")
    block_initialization: Initialization = Field(
        default="default", description="How the weights of the blocks' convolutions start."
    )
    batch_norm_weight: InitialWeight | None = Field(
        default=None, description="The value that the weights of the blocks' batch norms start with; null: 1."
    )

    @model_validator(mode="after")
    def _batch_norm_is_there_where_it_is_weighted(self) -> "Resnet":
        if self.batch_norm_weight is not None and self.batch_norm is None:
            raise PydanticCustomError("conflict", "`batch_norm_weight` needs `batch_norm`, and the blocks have none")
        return self

    def layer_list(self, outputs: int) -> list[Layer]:
        """Return the layer list for this many outputs: one per class, or 1 for a regression."""
        dropout = _when(self.dropout2d > 0, Dropout2d(probability=self.dropout2d))
        convolution = Conv2d(
            out_channels=self.channels,
            kernel_size=3,
            padding=1,
            bias=self.batch_norm is None,
            initialization=self.block_initialization,
        )
        block = [convolution, *dropout, *_activated(self.activation, self.batch_norm, self.batch_norm_weight)]
        return [
            Conv2d(out_channels=self.channels, kernel_size=3, padding=1),
            *dropout,
            *_activated(self.activation, self.stem_batch_norm),
            MaxPool2d(),
            Residual(layers=block, repeat=self.blocks, share_weights=self.share_weights),
            MaxPool2d(),
            *_head(self.hidden, self.activation, dropout=0.0, outputs=outputs),
        ]


class Sequential(Strict):
    """A layer list of the user's own; the last layer must put out one value per class, or 1 for a regression."""

    name: Literal["sequential"] = "sequential"
    layers: list[Layer] = Field(min_length=1, max_length=MAX_LAYERS)

    def layer_list(self, outputs: int) -> list[Layer]:
        """Return the list as it was given."""
        return list(self.layers)


class Torchvision(Strict):
    """A classifier of torchvision by name, with an output per class; its layers are counted when it is built.

    Grey images reach it as three equal channels.
    """

    name: Literal["torchvision"] = "torchvision"
    architecture: Architecture = Field(description="The name under which torchvision lists the network.")
    weights: WeightsFile | None = Field(
        default=None,
        description="A file that an administrator placed in the directory of weights; null: random weights. "
        "The last layer starts at random where the file has another number of classes.",
    )

    def require_fits(self, input_shape: Shape) -> None:
        """Raise NetworkDoesNotFit with a sentence where the network cannot take samples of `input_shape`."""
        require_fits(self.architecture, input_shape)


Network = Annotated[Lenet | Cnn | Mlp | Resnet | Sequential | Torchvision, Field(discriminator="name")]


def _when(wanted: bool, layer: Layer) -> list[Layer]:
    return [layer] if wanted else []


def _activated(
    activation: ActivationName, batch_norm: BatchNormPlace | Literal[False] | None, initial_weight: float | None = None
) -> list[Layer]:
    """Return what follows a convolution: its activation, with batch norm before or after it where there is one."""
    norm = BatchNorm2d(initial_weight=initial_weight)
    return [
        *_when(batch_norm == "before_activation", norm),
        _ACTIVATIONS[activation],
        *_when(batch_norm == "after_activation", norm),
    ]


def _head(hidden: list[int], activation: ActivationName, dropout: float, outputs: int) -> list[Layer]:
    """Return a flatten, the hidden linear layers, and the linear layer that puts the outputs out."""
    layers: list[Layer] = [Flatten()]
    for size in hidden:
        layers += [Linear(out_features=size), _ACTIVATIONS[activation]]
        layers += _when(dropout > 0, Dropout(probability=dropout))
    return [*layers, Linear(out_features=outputs)]
