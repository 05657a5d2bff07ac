"""The layer kinds of a network as data: their fields, and the shapes, parameters and MACs of each, in plain Python."""

import math
from typing import Annotated, Literal

from pydantic import Field

from models.validation import Strict

Shape = tuple[int, ...]

MAX_LAYERS = 512
_MAX_REPEATS = 100
MAX_KERNEL_SIZE = 1_024

Channels = Annotated[int, Field(ge=1, le=65_536)]
KernelSize = Annotated[int, Field(ge=1, le=MAX_KERNEL_SIZE)]
Padding = Annotated[int, Field(ge=0, le=512)]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
InitialWeight = Annotated[float, Field(ge=-1_000.0, le=1_000.0)]
Initialization = Literal["default", "kaiming_normal", "xavier_uniform"]

_INITIALIZATION = (
    "How the weights start: as torch does it for this layer, normal by He et al. 2015 (fan in, gain of ReLU), or "
    "uniform by Glorot and Bengio 2010; the bias starts as torch does it."
)
_INITIAL_WEIGHT = "The value that every weight starts with; null: 1, as torch does it."


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


def _require_vector(kind: str, shape: Shape) -> Shape:
    if len(shape) != 1:
        raise ValueError(f"{kind} needs a vector (features,): put a flatten layer before it")
    return shape


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
    initialization: Initialization = Field(default="default", description=_INITIALIZATION)

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
    initialization: Initialization = Field(default="default", description=_INITIALIZATION)

    def output_shape(self, shape: Shape) -> Shape:
        """Return (out_features,)."""
        _require_vector(self.kind, shape)
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
    padding: Padding = Field(default=0, description="At most half of the kernel size.")

    def output_shape(self, shape: Shape) -> Shape:
        """Return the map after pooling, incomplete windows dropped."""
        if self.padding > self.kernel_size // 2:
            kernel = f"{self.kernel_size}x{self.kernel_size}"
            raise ValueError(f"padding {self.padding} is more than half of the {kernel} kernel")
        stride = self.stride or self.kernel_size
        return (shape[0], *_window(self.kind, shape, self.kernel_size, stride, self.padding))


class MaxPool2d(_Pool2d):
    """Maximum over a sliding window."""

    kind: Literal["max_pool2d"] = "max_pool2d"


class AvgPool2d(_Pool2d):
    """Mean over a sliding window; padding counts as zeros."""

    kind: Literal["avg_pool2d"] = "avg_pool2d"


class AdaptiveAvgPool2d(_Layer):
    """Mean over windows chosen so that the map has the asked side afterwards, whatever it had before."""

    kind: Literal["adaptive_avg_pool2d"] = "adaptive_avg_pool2d"
    output_size: Annotated[int, Field(ge=1, le=512)]

    def output_shape(self, shape: Shape) -> Shape:
        """Return (channels, output_size, output_size)."""
        return (_require_map(self.kind, shape)[0], self.output_size, self.output_size)


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


class LeakyRelu(_Layer):
    """x where it is positive, else `negative_slope` times x."""

    kind: Literal["leaky_relu"] = "leaky_relu"
    negative_slope: Annotated[float, Field(ge=0.0, le=1.0)] = 0.01


class Gelu(_Layer):
    """x times the standard normal distribution function of x."""

    kind: Literal["gelu"] = "gelu"


class Tanh(_Layer):
    """Hyperbolic tangent."""

    kind: Literal["tanh"] = "tanh"


class Sigmoid(_Layer):
    """Logistic function."""

    kind: Literal["sigmoid"] = "sigmoid"


class Softmax(_Layer):
    """Positive and summing to 1 over the features of a vector, or over the channels at each place of a map."""

    kind: Literal["softmax"] = "softmax"


class LogSoftmax(_Layer):
    """The logarithm of `softmax`."""

    kind: Literal["log_softmax"] = "log_softmax"


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


class _Norm(_Layer):
    """Scale and shift after normalising; running statistics are buffers, not parameters."""

    initial_weight: InitialWeight | None = Field(default=None, description=_INITIAL_WEIGHT)

    def parameters(self, shape: Shape) -> int:
        """Count one scale and one shift per channel or feature."""
        return 2 * shape[0]


class BatchNorm1d(_Norm):
    """Normalises each feature over the batch."""

    kind: Literal["batch_norm1d"] = "batch_norm1d"

    def output_shape(self, shape: Shape) -> Shape:
        """Return the same shape."""
        return _require_vector(self.kind, shape)


class BatchNorm2d(_Norm):
    """Normalises each channel over the batch."""

    kind: Literal["batch_norm2d"] = "batch_norm2d"

    def output_shape(self, shape: Shape) -> Shape:
        """Return the same shape."""
        return _require_map(self.kind, shape)


class LayerNorm(_Norm):
    """Normalises all values of a sample together; each has a scale and a shift of its own."""

    kind: Literal["layer_norm"] = "layer_norm"

    def output_shape(self, shape: Shape) -> Shape:
        """Return the same shape."""
        if math.prod(shape) == 1:
            raise ValueError("layer_norm of a single value leaves nothing of it")
        return shape

    def parameters(self, shape: Shape) -> int:
        """Count one scale and one shift per value."""
        return 2 * math.prod(shape)


class GroupNorm(_Norm):
    """Normalises the channels of a sample in `groups` groups, each with its whole map."""

    kind: Literal["group_norm"] = "group_norm"
    groups: Annotated[int, Field(ge=1, le=65_536, description="Divides the number of channels.")]

    def output_shape(self, shape: Shape) -> Shape:
        """Return the same shape."""
        if shape[0] % self.groups:
            raise ValueError(f"{self.groups} groups do not divide its {shape[0]} channels")
        if math.prod(shape) == self.groups:
            raise ValueError("group_norm of a single value per group leaves nothing of it")
        return shape


class Residual(Strict):
    """What its layers make of the input, plus the input, `repeat` times one after the other.

    Where the layers change the shape, the input is added through a projection: a 1x1 convolution without bias on a
    map, a linear layer without bias on a vector.
    """

    kind: Literal["residual"] = "residual"
    layers: list["Layer"] = Field(min_length=1, max_length=MAX_LAYERS)
    repeat: Annotated[int, Field(ge=1, le=_MAX_REPEATS)] = 1
    share_weights: bool = Field(
        default=False, description="One module applied `repeat` times, instead of `repeat` modules of the same kind."
    )


SingleLayer = (
    Conv2d
    | Linear
    | MaxPool2d
    | AvgPool2d
    | AdaptiveAvgPool2d
    | GlobalAvgPool2d
    | Flatten
    | Relu
    | LeakyRelu
    | Gelu
    | Tanh
    | Sigmoid
    | Softmax
    | LogSoftmax
    | Dropout
    | Dropout2d
    | BatchNorm1d
    | BatchNorm2d
    | LayerNorm
    | GroupNorm
)
Layer = Annotated[SingleLayer | Residual, Field(discriminator="kind")]
Residual.model_rebuild()
