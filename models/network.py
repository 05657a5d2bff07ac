"""A network as data: the layer kinds, and the shapes, parameters and MACs of a list of layers, in plain Python."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from models.errors import TrainyardError
from models.validation import Strict

Shape = tuple[int, ...]

MAX_LAYERS = 512
MAX_PARAMETERS = 1_000_000_000
MAX_ACTIVATIONS = 100_000_000

Channels = Annotated[int, Field(ge=1, le=65_536)]
KernelSize = Annotated[int, Field(ge=1, le=1_024)]
Padding = Annotated[int, Field(ge=0, le=512)]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]


class LayerDoesNotFit(TrainyardError):
    """A layer cannot take the shape that reaches it; carries the layer's index in the list."""

    code = "layer_does_not_fit"

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index


class NetworkTooLarge(TrainyardError):
    """A network beyond what the service accepts; refused before anything is allocated."""

    code = "network_too_large"


class _Layer(Strict):
    """One layer; shapes are per sample, without the batch: (channels, height, width) or (features,)."""

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape that leaves the layer; raise ValueError with a sentence where `shape` does not fit."""
        return shape

    def parameters(self, shape: Shape) -> int:
        """Count the trainable parameters for an input of this shape."""
        return 0

    def macs(self, shape: Shape) -> int:
        """Count multiply-accumulates per sample (Conv and Linear only, biases not counted)."""
        return 0


def _require_map(kind: str, shape: Shape) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise ValueError(f"{kind} needs a map (channels, height, width)")
    return (shape[0], shape[1], shape[2])


def _window(kind: str, shape: Shape, kernel_size: int, stride: int, padding: int) -> tuple[int, int]:
    """Return (height, width) after a sliding window; the formula of torch.nn.Conv2d with dilation 1."""
    _, height, width = _require_map(kind, shape)
    if min(height, width) + 2 * padding < kernel_size:
        padded = f" with padding {padding}" if padding else ""
        raise ValueError(f"a {kernel_size}x{kernel_size} kernel is larger than the {height}x{width} map{padded}")
    return (
        (height + 2 * padding - kernel_size) // stride + 1,
        (width + 2 * padding - kernel_size) // stride + 1,
    )


class Conv2d(_Layer):
    """2-d convolution; the input channels follow from the layer before it."""

    kind: Literal["conv2d"] = "conv2d"
    out_channels: Channels
    kernel_size: KernelSize
    stride: KernelSize = 1
    padding: Padding = 0
    bias: bool = True

    def output_shape(self, shape: Shape) -> Shape:
        """Return (out_channels, height, width)."""
        return (self.out_channels, *_window(self.kind, shape, self.kernel_size, self.stride, self.padding))

    def parameters(self, shape: Shape) -> int:
        """Count weights and, where there is one, the bias."""
        return self.out_channels * (shape[0] * self.kernel_size**2 + int(self.bias))

    def macs(self, shape: Shape) -> int:
        """Count one kernel application per output element."""
        return math.prod(self.output_shape(shape)) * shape[0] * self.kernel_size**2


class Linear(_Layer):
    """Fully connected layer; the input features follow from the layer before it."""

    kind: Literal["linear"] = "linear"
    out_features: Channels
    bias: bool = True

    def output_shape(self, shape: Shape) -> Shape:
        """Return (out_features,)."""
        if len(shape) != 1:
            raise ValueError("linear needs a vector (features,): put a flatten layer before it")
        return (self.out_features,)

    def parameters(self, shape: Shape) -> int:
        """Count weights and, where there is one, the bias."""
        return self.out_features * (shape[0] + int(self.bias))

    def macs(self, shape: Shape) -> int:
        """Count one multiply-accumulate per weight."""
        return self.out_features * shape[0]


class _Pool2d(_Layer):
    kind: str
    kernel_size: KernelSize = 2
    stride: KernelSize | None = Field(default=None, description="Defaults to the kernel size.")

    def output_shape(self, shape: Shape) -> Shape:
        """Return the map after pooling, incomplete windows dropped."""
        return (shape[0], *_window(self.kind, shape, self.kernel_size, self.stride or self.kernel_size, 0))


class MaxPool2d(_Pool2d):
    """Maximum over a sliding window."""

    kind: Literal["max_pool2d"] = "max_pool2d"


class AvgPool2d(_Pool2d):
    """Mean over a sliding window."""

    kind: Literal["avg_pool2d"] = "avg_pool2d"


class GlobalAvgPool2d(_Layer):
    """Mean over the whole map: leaves (channels, 1, 1)."""

    kind: Literal["global_avg_pool2d"] = "global_avg_pool2d"

    def output_shape(self, shape: Shape) -> Shape:
        """Return (channels, 1, 1)."""
        return (_require_map(self.kind, shape)[0], 1, 1)


class Flatten(_Layer):
    """Everything of one sample in one vector."""

    kind: Literal["flatten"] = "flatten"

    def output_shape(self, shape: Shape) -> Shape:
        """Return (features,)."""
        return (math.prod(shape),)


class Relu(_Layer):
    """max(x, 0)."""

    kind: Literal["relu"] = "relu"


class Tanh(_Layer):
    """Hyperbolic tangent."""

    kind: Literal["tanh"] = "tanh"


class Sigmoid(_Layer):
    """Logistic function."""

    kind: Literal["sigmoid"] = "sigmoid"


class Dropout(_Layer):
    """Zeroes single elements with the given probability while training."""

    kind: Literal["dropout"] = "dropout"
    probability: Probability = 0.5


class Dropout2d(_Layer):
    """Zeroes whole channels with the given probability while training."""

    kind: Literal["dropout2d"] = "dropout2d"
    probability: Probability = 0.5

    def output_shape(self, shape: Shape) -> Shape:
        """Return the same shape."""
        return _require_map(self.kind, shape)


class BatchNorm2d(_Layer):
    """Normalises each channel over the batch; its running statistics are buffers, not parameters."""

    kind: Literal["batch_norm2d"] = "batch_norm2d"
    parameters_per_channel: ClassVar[int] = 2

    def output_shape(self, shape: Shape) -> Shape:
        """Return the same shape."""
        return _require_map(self.kind, shape)

    def parameters(self, shape: Shape) -> int:
        """Count one scale and one shift per channel."""
        return self.parameters_per_channel * shape[0]


Layer = Annotated[
    Conv2d
    | Linear
    | MaxPool2d
    | AvgPool2d
    | GlobalAvgPool2d
    | Flatten
    | Relu
    | Tanh
    | Sigmoid
    | Dropout
    | Dropout2d
    | BatchNorm2d,
    Field(discriminator="kind"),
]


@dataclass(frozen=True)
class LayerSummary:
    """One layer in its place: shapes per sample, parameters and MACs."""

    index: int
    kind: str
    input_shape: Shape
    output_shape: Shape
    parameters: int
    macs: int


@dataclass(frozen=True)
class NetworkSummary:
    """A whole network: its layers in order and the totals per sample."""

    layers: tuple[LayerSummary, ...]
    output_shape: Shape
    parameters: int
    macs: int

    @property
    def largest_activations(self) -> int:
        """The most values per sample that stand at one layer, input and output together."""
        return max(math.prod(place.input_shape) + math.prod(place.output_shape) for place in self.layers)


def summarise(layers: Sequence[Layer], input_shape: Shape) -> NetworkSummary:
    """Infer every layer's shape, parameters and MACs for an input of `input_shape` (per sample, without the batch).

    Raises LayerDoesNotFit naming the first layer that cannot take what reaches it, NetworkTooLarge beyond the limits.
    """
    shape = input_shape
    summaries: list[LayerSummary] = []
    for index, layer in enumerate(layers):
        try:
            output = layer.output_shape(shape)
        except ValueError as error:
            raise LayerDoesNotFit(
                index, f"layer {index} ({layer.kind}) does not fit its input {shape}: {error}"
            ) from None
        if math.prod(output) > MAX_ACTIVATIONS:
            raise NetworkTooLarge(f"layer {index} ({layer.kind}) puts out {math.prod(output):,} values per sample")
        summaries.append(LayerSummary(index, layer.kind, shape, output, layer.parameters(shape), layer.macs(shape)))
        shape = output
    parameters = sum(summary.parameters for summary in summaries)
    if parameters > MAX_PARAMETERS:
        raise NetworkTooLarge(f"the network has {parameters:,} parameters; at most {MAX_PARAMETERS:,} are accepted")
    return NetworkSummary(tuple(summaries), shape, parameters, sum(summary.macs for summary in summaries))
