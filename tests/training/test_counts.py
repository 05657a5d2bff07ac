"""Shapes, parameters and MACs: against the reference runs, and against what torch itself counts."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models import network as data
from models.network import Layer, LayerDoesNotFit, NetworkSummary, Shape, summarise
from models.spec import JobSpec
from worker.networks import build

LAYER: TypeAdapter[Layer] = TypeAdapter(Layer)

RELU: dict[str, Any] = {"kind": "relu"}
TANH: dict[str, Any] = {"kind": "tanh"}
POOL: dict[str, Any] = {"kind": "max_pool2d"}
BATCH_NORM: dict[str, Any] = {"kind": "batch_norm2d"}
FLATTEN: dict[str, Any] = {"kind": "flatten"}
DROP_CHANNELS: dict[str, Any] = {"kind": "dropout2d", "probability": 0.3}


def conv(channels: int, kernel_size: int = 3, padding: int = 1) -> dict[str, Any]:
    return {"kind": "conv2d", "out_channels": channels, "kernel_size": kernel_size, "padding": padding}


def linear(features: int) -> dict[str, Any]:
    return {"kind": "linear", "out_features": features}


def lenet(*, dropout: bool = False, batch_norm: bool = False) -> list[dict[str, Any]]:
    first = [conv(6, 5, 0), BATCH_NORM] if batch_norm else [conv(6, 5, 0)]
    second = [conv(16, 5, 0), RELU, {"kind": "dropout"}] if dropout else [conv(16, 5, 0), RELU]
    head = [FLATTEN, linear(84), RELU, linear(10)]
    return [*first, RELU, POOL, *second, POOL, conv(120, 5, 0), RELU, *head]


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

HOUSING_ROWS = {
    "housing-8": ([linear(8), TANH, linear(1)], 57, 48),
    "housing-256-128-64": (
        [linear(256), TANH, linear(128), TANH, linear(64), TANH, linear(1)],
        42_753,
        42_304,
    ),
    "housing-8-32-10": ([linear(8), TANH, linear(32), TANH, linear(10), TANH, linear(1)], 677, 626),
}


def cifar10_job(network: dict[str, Any]) -> JobSpec:
    return JobSpec.model_validate({"dataset": {"name": "cifar10"}, "network": network})


def require_torch_agrees(summary: NetworkSummary, layers: list[Layer], input_shape: Shape) -> None:
    """Hold a summary to the built network: each layer's output shape, the parameters and the MACs."""
    # Off meta: a meta copy would untie shared weights and count them twice.
    network = build(layers, input_shape)
    assert sum(parameter.numel() for parameter in network.parameters()) == summary.parameters
    assert [sum(p.numel() for p in module.parameters()) for module in network] == [
        place.parameters for place in summary.layers
    ]

    network = network.to("meta").eval()
    shapes: list[Shape] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        shapes.append(tuple(output.shape[1:]))

    for module in network:
        module.register_forward_hook(note)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.empty(1, *input_shape, device="meta"))
    assert shapes == [place.output_shape for place in summary.layers]
    assert counter.get_total_flops() == 2 * summary.macs


@pytest.mark.parametrize("row", CIFAR10_ROWS)
def test_a_preset_has_the_counts_of_its_reference_run(row: str) -> None:
    preset, _, parameters, macs = CIFAR10_ROWS[row]
    spec = cifar10_job(preset)
    summary = spec.summary()
    assert (summary.parameters, summary.macs) == (parameters, macs)
    require_torch_agrees(summary, spec.network.layer_list(10), (3, 32, 32))


@pytest.mark.parametrize("row", CIFAR10_ROWS)
def test_a_reference_run_written_out_as_layers_is_its_preset(row: str) -> None:
    preset, layers, parameters, macs = CIFAR10_ROWS[row]
    spec = cifar10_job({"name": "sequential", "layers": layers})
    summary = spec.summary()
    assert (summary.parameters, summary.macs) == (parameters, macs)
    assert spec.network.layer_list(10) == cifar10_job(preset).network.layer_list(10)
    require_torch_agrees(summary, spec.network.layer_list(10), (3, 32, 32))


@pytest.mark.parametrize("row", HOUSING_ROWS)
def test_a_network_over_five_columns_has_the_counts_of_its_reference_run(row: str) -> None:
    written, parameters, macs = HOUSING_ROWS[row]
    layers = [LAYER.validate_python(layer) for layer in written]
    summary = summarise(layers, (5,))
    assert (summary.output_shape, summary.parameters, summary.macs) == ((1,), parameters, macs)
    require_torch_agrees(summary, layers, (5,))


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

    kernel_sizes = st.integers(1, min(4, largest))
    strides = st.none() | st.integers(1, 4)
    return (
        st.integers(0, 3).flatmap(convolutions)
        | st.builds(data.MaxPool2d, kernel_size=kernel_sizes, stride=strides)
        | st.builds(data.AvgPool2d, kernel_size=kernel_sizes, stride=strides)
    )


ANYWHERE: st.SearchStrategy[Layer] = st.sampled_from(
    [data.Relu(), data.Tanh(), data.Sigmoid(), data.Flatten(), data.Dropout(probability=0.2)]
)
ON_MAPS: st.SearchStrategy[Layer] = st.sampled_from(
    [data.BatchNorm2d(), data.Dropout2d(probability=0.2), data.GlobalAvgPool2d()]
)
ON_VECTORS: st.SearchStrategy[Layer] = st.builds(data.Linear, out_features=st.integers(1, 40), bias=st.booleans())


@st.composite
def fitting_networks(draw: st.DrawFn) -> tuple[list[Layer], Shape]:
    """A list of layers each of which takes the shape that reaches it, and the shape of a sample."""
    input_shape: Shape = draw(st.tuples(st.integers(1, 4), st.integers(3, 20), st.integers(3, 20)))
    shape = input_shape
    layers: list[Layer] = []
    for _ in range(draw(st.integers(1, 10))):
        fitting = windows(shape) | ON_MAPS | ANYWHERE if len(shape) == 3 else ON_VECTORS | ANYWHERE
        layers.append(draw(fitting))
        shape = layers[-1].output_shape(shape)
    return layers, input_shape


@settings(deadline=None)
@given(network=fitting_networks())
def test_every_fitting_list_of_layers_is_counted_as_torch_counts_it(network: tuple[list[Layer], Shape]) -> None:
    layers, input_shape = network
    summary = summarise(layers, input_shape)
    assert summary.parameters == sum(place.parameters for place in summary.layers)
    assert summary.output_shape == summary.layers[-1].output_shape
    assert [place.input_shape for place in summary.layers[1:]] == [place.output_shape for place in summary.layers[:-1]]
    require_torch_agrees(summary, layers, input_shape)


@settings(deadline=None)
@given(
    kind=st.sampled_from(["conv2d", "max_pool2d", "avg_pool2d"]),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel_size=st.integers(1, 12),
    stride=st.integers(1, 5),
    padding=st.integers(0, 3),
)
def test_a_window_is_refused_exactly_where_torch_refuses_it(
    kind: str, size: tuple[int, int], kernel_size: int, stride: int, padding: int
) -> None:
    sample = torch.zeros(1, 2, *size)
    layer: Layer
    module: nn.Module
    if kind == "conv2d":
        layer = data.Conv2d(out_channels=3, kernel_size=kernel_size, stride=stride, padding=padding)
        module = nn.Conv2d(2, 3, kernel_size, stride, padding)
    elif kind == "max_pool2d":
        layer, module = data.MaxPool2d(kernel_size=kernel_size, stride=stride), nn.MaxPool2d(kernel_size, stride)
    else:
        layer, module = data.AvgPool2d(kernel_size=kernel_size, stride=stride), nn.AvgPool2d(kernel_size, stride)
    try:
        expected: Shape | None = tuple(module(sample).shape[1:])
    except RuntimeError:
        expected = None
    try:
        found: Shape | None = summarise([layer], (2, *size)).output_shape
    except LayerDoesNotFit:
        found = None
    assert found == expected
