"""Shapes, parameters and MACs: against the reference runs, and against what torch itself counts."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models import layers as data
from models.layers import Layer, Shape
from models.network import LayerDoesNotFit, LayerSummary, NetworkSummary, summarise
from models.presets import Network, Torchvision
from worker.networks import build
from worker.networks.layers import Block, Residual

NETWORK: TypeAdapter[Network] = TypeAdapter(Network)

RELU: dict[str, Any] = {"kind": "relu"}
TANH: dict[str, Any] = {"kind": "tanh"}
POOL: dict[str, Any] = {"kind": "max_pool2d"}
BATCH_NORM: dict[str, Any] = {"kind": "batch_norm2d"}
FLATTEN: dict[str, Any] = {"kind": "flatten"}
DROP_CHANNELS: dict[str, Any] = {"kind": "dropout2d", "probability": 0.3}


def conv(channels: int, kernel_size: int = 3, padding: int = 1, **more: Any) -> dict[str, Any]:
    return {"kind": "conv2d", "out_channels": channels, "kernel_size": kernel_size, "padding": padding, **more}


def linear(features: int) -> dict[str, Any]:
    return {"kind": "linear", "out_features": features}


def lenet(*, dropout: bool = False, batch_norm: bool = False) -> list[dict[str, Any]]:
    first = [conv(6, 5, 0), BATCH_NORM] if batch_norm else [conv(6, 5, 0)]
    second = [conv(16, 5, 0), RELU, {"kind": "dropout"}] if dropout else [conv(16, 5, 0), RELU]
    head = [FLATTEN, linear(84), RELU, linear(10)]
    return [*first, RELU, POOL, *second, POOL, conv(120, 5, 0), RELU, *head]


def resnet10(
    *block: dict[str, Any], stem: Sequence[dict[str, Any]] = (conv(32), RELU), share_weights: bool = True
) -> list[dict[str, Any]]:
    residual = {"kind": "residual", "layers": list(block), "repeat": 10, "share_weights": share_weights}
    return [*stem, POOL, residual, POOL, FLATTEN, linear(32), RELU, linear(10)]


def layers_of(network: dict[str, Any], outputs: int) -> list[Layer]:
    validated = NETWORK.validate_python(network)
    assert not isinstance(validated, Torchvision)
    return validated.layer_list(outputs)


# One row of reference-runs.md each: preset, the same written out as layers, parameters, MACs.
CIFAR10_ROWS: dict[str, tuple[dict[str, Any], list[dict[str, Any]], int, int]] = {
    "lenet": ({"name": "lenet"}, lenet(), 62_006, 651_720),
    "lenet-dropout": ({"name": "lenet", "dropout": 0.5}, lenet(dropout=True), 62_006, 651_720),
    "lenet-dropout-bn": (
        {"name": "lenet", "dropout": 0.5, "batch_norm": True},
        lenet(dropout=True, batch_norm=True),
        62_018,
        651_720,
    ),
    "cnn2-tanh": (
        {"name": "cnn", "channels": [16, 8], "activation": "tanh"},
        [conv(16), TANH, POOL, conv(8), TANH, POOL, FLATTEN, linear(32), TANH, linear(10)],
        18_354,
        753_984,
    ),
    "cnn3-tanh": (
        {"name": "cnn", "channels": [16, 8, 4], "activation": "tanh"},
        [conv(16), TANH, POOL, conv(8), TANH, POOL, conv(4), TANH, POOL, FLATTEN, linear(32), TANH, linear(10)],
        4_310,
        758_080,
    ),
    "resnet10-bn": (
        {
            "name": "resnet",
            "share_weights": True,
            "batch_norm": "before_activation",
            "block_initialization": "kaiming_normal",
            "batch_norm_weight": 0.5,
        },
        resnet10(
            conv(32, bias=False, initialization="kaiming_normal"),
            {"kind": "batch_norm2d", "initial_weight": 0.5},
            RELU,
        ),
        76_074,
        24_543_552,
    ),
    "cnn2-wide-l2": (
        {"name": "cnn", "activation": "tanh"},
        [conv(32), TANH, POOL, conv(16), TANH, POOL, FLATTEN, linear(32), TANH, linear(10)],
        38_650,
        2_097_472,
    ),
    "cnn2-wide-dropout": (
        {"name": "cnn", "activation": "tanh", "dropout2d": 0.3},
        [
            *[conv(32), TANH, POOL, DROP_CHANNELS],
            *[conv(16), TANH, POOL, DROP_CHANNELS],
            *[FLATTEN, linear(32), TANH, linear(10)],
        ],
        38_650,
        2_097_472,
    ),
    "cnn2-wide-bn": (
        {"name": "cnn", "activation": "tanh", "batch_norm": True},
        [
            *[conv(32), BATCH_NORM, TANH, POOL],
            *[conv(16), BATCH_NORM, TANH, POOL],
            *[FLATTEN, linear(32), TANH, linear(10)],
        ],
        38_746,
        2_097_472,
    ),
    "cnn2-relu": (
        {"name": "cnn"},
        [conv(32), RELU, POOL, conv(16), RELU, POOL, FLATTEN, linear(32), RELU, linear(10)],
        38_650,
        2_097_472,
    ),
    "cnn3-relu": (
        {"name": "cnn", "channels": [32, 16, 8], "hidden_activation": "tanh"},
        [conv(32), RELU, POOL, conv(16), RELU, POOL, conv(8), RELU, POOL, FLATTEN, linear(32), TANH, linear(10)],
        11_138,
        2_142_528,
    ),
    "resnet10": ({"name": "resnet", "share_weights": True}, resnet10(conv(32), RELU), 76_042, 24_543_552),
    "resnet10-l2": ({"name": "resnet", "share_weights": True}, resnet10(conv(32), RELU), 76_042, 24_543_552),
    "resnet10-dropout": (
        {"name": "resnet", "share_weights": True, "dropout2d": 0.3},
        resnet10(conv(32), DROP_CHANNELS, RELU, stem=[conv(32), DROP_CHANNELS, RELU]),
        76_042,
        24_543_552,
    ),
    "resnet10-bn-after-relu": (
        {
            "name": "resnet",
            "share_weights": True,
            "batch_norm": "after_activation",
            "stem_batch_norm": "after_activation",
        },
        resnet10(conv(32, bias=False), RELU, BATCH_NORM, stem=[conv(32), RELU, BATCH_NORM]),
        76_138,
        24_543_552,
    ),
    "mlp-512": (
        {"name": "mlp", "hidden": [512], "activation": "tanh"},
        [FLATTEN, linear(512), TANH, linear(10)],
        1_578_506,
        1_577_984,
    ),
    "mlp-512-256-128": (
        {"name": "mlp", "hidden": [512, 256, 128], "activation": "tanh"},
        [FLATTEN, linear(512), TANH, linear(256), TANH, linear(128), TANH, linear(10)],
        1_738_890,
        1_737_984,
    ),
    "mlp-512-1024-256": (
        {"name": "mlp", "hidden": [512, 1024, 256], "activation": "tanh"},
        [FLATTEN, linear(512), TANH, linear(1024), TANH, linear(256), TANH, linear(10)],
        2_363_658,
        2_361_856,
    ),
}

# With ten separate blocks, at the same MACs.
UNSHARED_ROWS: dict[str, tuple[dict[str, Any], list[dict[str, Any]], int, int]] = {
    "resnet10, ten blocks": (
        {"name": "resnet"},
        resnet10(conv(32), RELU, share_weights=False),
        159_274,
        24_543_552,
    ),
    "resnet10-bn, ten blocks": (
        {"name": "resnet", "batch_norm": "before_activation"},
        resnet10(conv(32, bias=False), BATCH_NORM, RELU, share_weights=False),
        159_594,
        24_543_552,
    ),
}

HOUSING_ROWS: dict[str, tuple[dict[str, Any], list[dict[str, Any]], int, int]] = {
    "housing-8": (
        {"name": "mlp", "hidden": [8], "activation": "tanh"},
        [FLATTEN, linear(8), TANH, linear(1)],
        57,
        48,
    ),
    "housing-256-128-64": (
        {"name": "mlp", "hidden": [256, 128, 64], "activation": "tanh"},
        [FLATTEN, linear(256), TANH, linear(128), TANH, linear(64), TANH, linear(1)],
        42_753,
        42_304,
    ),
    "housing-8-32-10": (
        {"name": "mlp", "hidden": [8, 32, 10], "activation": "tanh"},
        [FLATTEN, linear(8), TANH, linear(32), TANH, linear(10), TANH, linear(1)],
        677,
        626,
    ),
}

ALL_ROWS: dict[str, tuple[dict[str, Any], list[dict[str, Any]], int, int, Shape, int]] = {
    **{row: (*facts, (3, 32, 32), 10) for row, facts in (CIFAR10_ROWS | UNSHARED_ROWS).items()},
    **{row: (*facts, (5,), 1) for row, facts in HOUSING_ROWS.items()},
}


def modules_with_places(
    modules: Iterable[nn.Module], places: Sequence[LayerSummary]
) -> Iterator[tuple[nn.Module, LayerSummary]]:
    """Pair each module with its summary; those inside a residual are of its first block."""
    for module, place in zip(modules, places, strict=True):
        yield module, place
        if isinstance(module, Residual):
            first = next(iter(module.blocks))
            assert isinstance(first, Block)
            added = [] if first.projection is None else [first.projection]
            yield from modules_with_places([*first.layers, *added], place.layers)


def require_torch_agrees(summary: NetworkSummary, layers: list[Layer], input_shape: Shape) -> None:
    """Hold a summary to the built network: each layer's parameters, output shape and applications, and the MACs."""
    # Off meta: a meta copy would untie shared weights and count them twice.
    network = build(layers, input_shape)
    assert sum(parameter.numel() for parameter in network.parameters()) == summary.parameters
    for module, place in modules_with_places(network, summary.layers):
        assert sum(parameter.numel() for parameter in module.parameters()) == place.parameters

    network = network.to("meta").eval()
    shapes: dict[nn.Module, list[Shape]] = defaultdict(list)

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        shapes[module].append(tuple(output.shape[1:]))

    for module in network.modules():
        module.register_forward_hook(note)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.empty(1, *input_shape, device="meta"))
    assert counter.get_total_flops() == 2 * summary.macs
    for module, place in modules_with_places(network, summary.layers):
        assert shapes[module][0] == place.output_shape
        applied = next(iter(module.blocks)) if isinstance(module, Residual) else module
        assert len(shapes[applied]) == place.applied


@pytest.mark.parametrize("row", ALL_ROWS)
def test_a_preset_has_the_counts_of_its_reference_run(row: str) -> None:
    preset, _, parameters, macs, input_shape, outputs = ALL_ROWS[row]
    layers = layers_of(preset, outputs)
    summary = summarise(layers, input_shape)
    assert (summary.output_shape, summary.parameters, summary.macs) == ((outputs,), parameters, macs)
    require_torch_agrees(summary, layers, input_shape)


@pytest.mark.parametrize("row", ALL_ROWS)
def test_a_reference_run_written_out_as_layers_is_its_preset(row: str) -> None:
    preset, written, parameters, macs, input_shape, outputs = ALL_ROWS[row]
    layers = layers_of({"name": "sequential", "layers": written}, outputs)
    summary = summarise(layers, input_shape)
    assert (summary.parameters, summary.macs) == (parameters, macs)
    assert layers == layers_of(preset, outputs)


@pytest.mark.parametrize("row", CIFAR10_ROWS)
def test_a_summary_says_where_a_reference_run_applies_one_block_ten_times(row: str) -> None:
    summary = summarise(layers_of(CIFAR10_ROWS[row][0], 10), (3, 32, 32))
    blocks = {place.loc: 10 for place in summary.layers if place.kind == "residual"}
    assert summary.shared == blocks
    assert len(blocks) == row.startswith("resnet10")


def windows(shape: Shape) -> st.SearchStrategy[Layer]:
    """Convolutions and pools that fit on a map."""
    _, height, width = shape
    largest = min(height, width)

    def convolutions(padding: int) -> st.SearchStrategy[data.Conv2d]:
        return st.builds(
            data.Conv2d,
            out_channels=st.integers(1, 7),
            kernel_size=st.integers(1, min(6, largest + 2 * padding)),
            stride=st.integers(1, 4),
            padding=st.just(padding),
            bias=st.booleans(),
        )

    def pools(kernel_size: int) -> st.SearchStrategy[data.MaxPool2d | data.AvgPool2d]:
        sizes, strides = st.just(kernel_size), st.none() | st.integers(1, 4)
        paddings = st.integers(0, kernel_size // 2)
        largest = st.builds(data.MaxPool2d, kernel_size=sizes, stride=strides, padding=paddings)
        return largest | st.builds(data.AvgPool2d, kernel_size=sizes, stride=strides, padding=paddings)

    return st.integers(0, 3).flatmap(convolutions) | st.integers(1, min(4, largest)).flatmap(pools)


ANYWHERE: st.SearchStrategy[Layer] = st.sampled_from(
    [
        *[data.Relu(), data.LeakyRelu(negative_slope=0.2), data.Gelu(), data.Tanh(), data.Sigmoid()],
        *[data.Softmax(), data.LogSoftmax(), data.Flatten(), data.Dropout(probability=0.2)],
    ]
)
ON_MAPS: st.SearchStrategy[Layer] = st.one_of(
    *[st.just(data.BatchNorm2d(initial_weight=0.5)), st.just(data.Dropout2d()), st.just(data.GlobalAvgPool2d())],
    st.builds(data.AdaptiveAvgPool2d, output_size=st.integers(1, 6)),
)
ON_VECTORS: st.SearchStrategy[Layer] = st.just(data.BatchNorm1d()) | st.builds(
    data.Linear,
    out_features=st.integers(1, 40),
    bias=st.booleans(),
    initialization=st.sampled_from(["default", "kaiming_normal", "xavier_uniform"]),
)


def single_layers(shape: Shape) -> st.SearchStrategy[Layer]:
    """Layers that fit a shape, without residuals."""
    fitting = windows(shape) | ON_MAPS | ANYWHERE if len(shape) == 3 else ON_VECTORS | ANYWHERE
    values = math.prod(shape)
    if values > 1:
        groups = [groups for groups in range(1, shape[0] + 1) if shape[0] % groups == 0 and groups < values]
        fitting |= st.just(data.LayerNorm()) | st.builds(data.GroupNorm, groups=st.sampled_from(groups))
    return fitting


@st.composite
def layer_lists(draw: st.DrawFn, shape: Shape, most: int, depth: int) -> list[Layer]:
    """Up to `most` layers each of which takes the shape that reaches it, with residuals up to `depth` inside."""
    layers: list[Layer] = []
    for _ in range(draw(st.integers(1, most))):
        layer = draw(residuals(shape, depth) if depth and draw(st.integers(0, 3)) == 0 else single_layers(shape))
        layers.append(layer)
        shape = summarise([layer], shape).output_shape
    return layers


@st.composite
def residuals(draw: st.DrawFn, shape: Shape, depth: int) -> Layer:
    """A residual around layers whose output the input can be added to, or else one of those layers."""
    inside = draw(layer_lists(shape, 3, depth - 1))
    repeat = draw(st.integers(1, 3))
    for share_weights in draw(st.permutations([True, False])):
        residual = data.Residual(layers=inside, repeat=repeat, share_weights=share_weights)
        try:
            summarise([residual], shape)
        except LayerDoesNotFit:
            continue
        return residual
    return inside[0]


@st.composite
def fitting_networks(draw: st.DrawFn) -> tuple[list[Layer], Shape]:
    """A list of layers each of which takes the shape that reaches it, and the shape of a sample."""
    input_shape: Shape = draw(st.tuples(st.integers(1, 4), st.integers(3, 20), st.integers(3, 20)))
    return draw(layer_lists(input_shape, 10, 2)), input_shape


@given(network=fitting_networks())
def test_every_fitting_list_of_layers_is_counted_as_torch_counts_it(network: tuple[list[Layer], Shape]) -> None:
    layers, input_shape = network
    summary = summarise(layers, input_shape)
    assert summary.parameters == sum(place.parameters for place in summary.layers)
    assert summary.macs == sum(place.macs for place in summary.layers)
    assert summary.output_shape == summary.layers[-1].output_shape
    assert [place.input_shape for place in summary.layers[1:]] == [place.output_shape for place in summary.layers[:-1]]
    require_torch_agrees(summary, layers, input_shape)
