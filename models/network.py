"""A list of layers as a network: its shapes, parameters and MACs, what does not fit in it, and what is too large."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from models.datasets import Task
from models.errors import TrainyardError
from models.layers import (
    MAX_KERNEL_SIZE,
    MAX_LAYERS,
    AdaptiveAvgPool2d,
    AvgPool2d,
    Conv2d,
    Dropout,
    Dropout2d,
    Flatten,
    GlobalAvgPool2d,
    Layer,
    LeakyRelu,
    Linear,
    LogSoftmax,
    MaxPool2d,
    Relu,
    Residual,
    Shape,
    SingleLayer,
    Softmax,
)

MAX_PARAMETERS = 1_000_000_000
MAX_ACTIVATIONS = 100_000_000
MAX_DEPTH = 4
MAX_APPLICATIONS = 4_096

# Behind a softmax these change nothing of what makes a second one harmful.
_PASSING_ON = (Flatten, Dropout, Dropout2d, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d, GlobalAvgPool2d, Relu, LeakyRelu)

Path = tuple[int, ...]


class LayerDoesNotFit(TrainyardError):
    """A layer cannot stand where it stands; carries the way to it in the list, through the residuals around it."""

    code = "layer_does_not_fit"

    def __init__(self, path: int | Path, message: str) -> None:
        super().__init__(message)
        self.path = (path,) if isinstance(path, int) else path

    @property
    def loc(self) -> str:
        """The layer's place as a path into the list, as in `3.layers.1`."""
        return _loc(self.path)


class NetworkDoesNotFit(LayerDoesNotFit):
    """A network whose layers are not known one by one cannot take the data."""

    code = "network_does_not_fit"

    def __init__(self, message: str) -> None:
        super().__init__((), message)


class DoubleSoftmax(LayerDoesNotFit):
    """The network ends in a softmax: cross entropy applies one itself, and of a single output it is constant."""

    code = "double_softmax"


class NetworkTooLarge(TrainyardError):
    """A network beyond what the service accepts; refused before anything is allocated."""

    code = "network_too_large"


@dataclass(frozen=True)
class LayerSummary:
    """One layer in its place: shapes per sample, parameters counted once each, and MACs of all its applications.

    `loc` is its path in the list (`3.layers.1`), or a module's name in a network of torchvision's. `layers` is the
    inside of a residual, of its first repetition where it has several with weights of their own.
    """

    index: int
    loc: str
    kind: str
    input_shape: Shape
    output_shape: Shape
    parameters: int
    macs: int
    applied: int = 1
    layers: tuple["LayerSummary", ...] = ()


@dataclass(frozen=True)
class NetworkSummary:
    """A whole network: its layers in order and the totals per sample.

    `largest_activations` is the most values per sample that stand at one layer: its input, its output, and what the
    residuals around it keep to add.
    """

    layers: tuple[LayerSummary, ...]
    output_shape: Shape
    parameters: int
    macs: int
    largest_activations: int

    def places(self) -> Iterator[LayerSummary]:
        """Yield every layer, each residual before the layers inside it."""
        return _places(self.layers)

    @property
    def shared(self) -> dict[str, int]:
        """Where weights are applied more than once: how often, by the path of the outermost layer that does it."""
        return dict(_shared(self.layers, applied_outside=1))


def summarise(layers: Sequence[Layer], input_shape: Shape) -> NetworkSummary:
    """Infer every layer's shape, parameters and MACs for an input of `input_shape` (per sample, without the batch).

    Raises LayerDoesNotFit naming the first layer that cannot take what reaches it, NetworkTooLarge beyond the limits.
    """
    _require_bounded(layers)
    chain = _follow(layers, input_shape, path=(), applied=1)
    if chain.parameters > MAX_PARAMETERS:
        raise NetworkTooLarge(
            f"the network has {chain.parameters:,} parameters; at most {MAX_PARAMETERS:,} are accepted"
        )
    return chain


def projection(input_shape: Shape, output_shape: Shape) -> Conv2d | Linear | None:
    """Return the layer, without bias, that brings a residual's input to the shape of its layers' output.

    None where the shapes agree; a 1x1 convolution between maps, strided where the map shrinks; a linear layer between
    vectors. Raises ValueError with a sentence where none of these does it.
    """
    if input_shape == output_shape:
        return None
    if len(input_shape) == len(output_shape) == 1:
        return Linear(out_features=output_shape[0], bias=False)
    if len(input_shape) == len(output_shape) == 3:
        sides = zip(input_shape[1:], output_shape[1:], strict=True)
        # A 1x1 window with stride s leaves ceil(side / s): no smaller stride leaves as few.
        stride = max(math.ceil(before / after) for before, after in sides)
        if stride <= MAX_KERNEL_SIZE:
            layer = Conv2d(out_channels=output_shape[0], kernel_size=1, stride=stride, bias=False)
            if layer.output_shape(input_shape) == output_shape:
                return layer
    raise ValueError(f"its layers put out {output_shape}, to which no 1x1 projection brings the input")


def refuse_final_softmax(layers: Sequence[Layer], task: Task) -> None:
    """Raise DoubleSoftmax where the network ends in a softmax, whatever merely passes its values on behind it."""
    last = len(layers) - 1
    while last >= 0 and isinstance(layers[last], _PASSING_ON):
        last -= 1
    if last < 0 or not isinstance(layers[last], Softmax | LogSoftmax):
        return
    why = (
        "cross entropy applies a softmax itself: twice, it flattens the gradients. Remove the layer; predictions and "
        "their probabilities are the same without it"
        if task == "classification"
        else "of the one output of a regression it is the same number whatever the input. Remove the layer"
    )
    raise DoubleSoftmax(last, f"{_label((last,), layers[last])} ends the network, and {why}.")


def _follow(layers: Sequence[Layer], shape: Shape, path: Path, applied: int) -> NetworkSummary:
    """Summarise a list that is applied `applied` times in one forward pass and stands at `path`."""
    largest = math.prod(shape)
    places: list[LayerSummary] = []
    for index, layer in enumerate(layers):
        here = (*path, index)
        if isinstance(layer, Residual):
            place, inside = _follow_residual(layer, shape, here, applied)
        else:
            place, inside = _place(layer, shape, here, applied), 0
        places.append(place)
        shape = place.output_shape
        largest = max(largest, inside, math.prod(place.input_shape) + math.prod(shape))
    return NetworkSummary(
        layers=tuple(places),
        output_shape=shape,
        parameters=sum(place.parameters for place in places),
        macs=sum(place.macs for place in places),
        largest_activations=largest,
    )


def _place(layer: SingleLayer, shape: Shape, path: Path, applied: int) -> LayerSummary:
    try:
        output = layer.output_shape(shape)
    except ValueError as error:
        raise _misfit(layer, shape, path, error) from None
    if math.prod(output) > MAX_ACTIVATIONS:
        raise NetworkTooLarge(f"{_label(path, layer)} puts out {math.prod(output):,} values per sample")
    return LayerSummary(
        index=path[-1],
        loc=_loc(path),
        kind=layer.kind,
        input_shape=shape,
        output_shape=output,
        parameters=layer.parameters(shape),
        macs=layer.macs(shape) * applied,
        applied=applied,
    )


def _follow_residual(layer: Residual, shape: Shape, path: Path, applied: int) -> tuple[LayerSummary, int]:
    """Return the residual in its place, and the largest activations inside of it."""
    if layer.share_weights:
        applied *= layer.repeat
    chains = list(_repetitions(layer, shape, path, applied))
    place = LayerSummary(
        index=path[-1],
        loc=_loc(path),
        kind=layer.kind,
        input_shape=shape,
        output_shape=chains[-1][0].output_shape,
        parameters=sum(chain.parameters * times for chain, times in chains),
        macs=sum(chain.macs * times for chain, times in chains),
        applied=applied,
        layers=chains[0][0].layers,
    )
    return place, max(chain.largest_activations for chain, _ in chains)


def _repetitions(layer: Residual, shape: Shape, path: Path, applied: int) -> Iterator[tuple[NetworkSummary, int]]:
    """Yield each repetition that differs from the one before it, and how often it stands there in a row.

    They are few, however many were asked for: one that keeps its shape is followed by its like, and one that changes
    it has a projection, which halves the map or is the only one to change the channels.
    """
    left = 1 if layer.share_weights else layer.repeat
    while left:
        chain = _repetition(layer, shape, path, applied)
        times = left if chain.output_shape == shape else 1
        yield chain, times
        shape, left = chain.output_shape, left - times


def _repetition(layer: Residual, shape: Shape, path: Path, applied: int) -> NetworkSummary:
    """Summarise one repetition of a residual; its projection, where there is one, is the last of the layers."""
    inside = _follow(layer.layers, shape, path, applied)
    if layer.share_weights and inside.output_shape != shape:
        error = ValueError(
            f"its layers put out {inside.output_shape}, and shared weights need the same shape before and after"
        )
        raise _misfit(layer, shape, path, error)
    try:
        added = projection(shape, inside.output_shape)
    except ValueError as error:
        raise _misfit(layer, shape, path, error) from None
    inside = replace(inside, largest_activations=inside.largest_activations + math.prod(shape))
    if added is None:
        return inside
    place = _place(added, shape, (*path, len(layer.layers)), applied)
    return replace(
        inside,
        layers=(*inside.layers, replace(place, loc=f"{_loc(path)}.projection", kind="projection")),
        parameters=inside.parameters + place.parameters,
        macs=inside.macs + place.macs,
    )


def _require_bounded(layers: Sequence[Layer]) -> None:
    """Refuse what would take long to follow: too deep, too many layers written, or too many once repeated."""
    written, applications = _count(layers, depth=0)
    if written > MAX_LAYERS:
        raise NetworkTooLarge(f"the network has {written:,} layers; at most {MAX_LAYERS} are accepted")
    if applications > MAX_APPLICATIONS:
        raise NetworkTooLarge(
            f"the network has {applications:,} layers with all their repetitions; "
            f"at most {MAX_APPLICATIONS:,} are accepted"
        )


def _count(layers: Sequence[Layer], depth: int) -> tuple[int, int]:
    """Count the layers as they are written, and as often as they are applied."""
    if depth > MAX_DEPTH:
        raise NetworkTooLarge(f"residuals are nested more than {MAX_DEPTH} deep")
    written = applications = len(layers)
    for layer in layers:
        if isinstance(layer, Residual):
            inner_written, inner_applications = _count(layer.layers, depth + 1)
            written += inner_written
            applications += layer.repeat * inner_applications
    return written, applications


def _places(layers: Sequence[LayerSummary]) -> Iterator[LayerSummary]:
    for place in layers:
        yield place
        yield from _places(place.layers)


def _shared(layers: Sequence[LayerSummary], applied_outside: int) -> Iterator[tuple[str, int]]:
    for place in layers:
        if place.applied > applied_outside and place.parameters:
            yield place.loc, place.applied
        else:
            yield from _shared(place.layers, place.applied)


def _misfit(layer: Layer, shape: Shape, path: Path, error: ValueError) -> LayerDoesNotFit:
    return LayerDoesNotFit(path, f"{_label(path, layer)} does not fit its input {shape}: {error}")


def _loc(path: Path) -> str:
    return ".layers.".join(map(str, path))


def _label(path: Path, layer: Layer) -> str:
    return f"layer {'.'.join(map(str, path))} ({layer.kind})"
