"""Networks that do not fit: what is refused, and that the message names the layer and the shapes."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from models.errors import InvalidSpec
from models.network import (
    MAX_ACTIVATIONS,
    MAX_LAYERS,
    MAX_PARAMETERS,
    Layer,
    LayerDoesNotFit,
    NetworkTooLarge,
    Shape,
    summarise,
)
from models.spec import JobSpec

LAYER: TypeAdapter[Layer] = TypeAdapter(Layer)


def layers(*written: dict[str, Any]) -> list[Layer]:
    return [LAYER.validate_python(layer) for layer in written]


def conv(channels: int, kernel_size: int, **more: Any) -> dict[str, Any]:
    return {"kind": "conv2d", "out_channels": channels, "kernel_size": kernel_size, **more}


def linear(features: int) -> dict[str, Any]:
    return {"kind": "linear", "out_features": features}


POOL: dict[str, Any] = {"kind": "max_pool2d"}
FLATTEN: dict[str, Any] = {"kind": "flatten"}


def job(network: dict[str, Any], dataset: str = "digits") -> JobSpec:
    return JobSpec.model_validate({"dataset": {"name": dataset}, "network": network})


def errors_of(network: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return (loc, code, message) of what is wrong with a network on digits, 1x8x8."""
    with pytest.raises(InvalidSpec) as refused:
        job(network).resolved()
    return [(error.loc, error.code, error.message) for error in refused.value.errors]


@pytest.mark.parametrize(
    ("written", "shape", "index", "message"),
    [
        pytest.param(
            [conv(4, 3), POOL, conv(4, 5)],
            (1, 8, 8),
            2,
            "layer 2 (conv2d) does not fit its input (4, 3, 3): a 5x5 kernel is larger than the 3x3 map",
            id="a 5x5 kernel on a 3x3 map",
        ),
        pytest.param(
            [conv(4, 9, padding=2)],
            (1, 3, 9),
            0,
            "layer 0 (conv2d) does not fit its input (1, 3, 9): a 9x9 kernel is larger than the 3x9 map with padding 2",
            id="a kernel on a map that is too low even with its padding",
        ),
        pytest.param(
            [conv(4, 3), {"kind": "avg_pool2d", "kernel_size": 7}],
            (1, 8, 8),
            1,
            "layer 1 (avg_pool2d) does not fit its input (4, 6, 6): a 7x7 kernel is larger than the 6x6 map",
            id="a pool larger than its map",
        ),
        pytest.param(
            [conv(4, 3), linear(10)],
            (1, 8, 8),
            1,
            "layer 1 (linear) does not fit its input (4, 6, 6): linear needs a vector (features,): "
            "put a flatten layer before it",
            id="linear after a map that is not flattened",
        ),
        pytest.param(
            [FLATTEN, linear(20), {"kind": "batch_norm2d"}],
            (1, 8, 8),
            2,
            "layer 2 (batch_norm2d) does not fit its input (20,): batch_norm2d needs a map (channels, height, width)",
            id="batch_norm2d on a vector",
        ),
        pytest.param(
            [{"kind": "dropout2d"}],
            (5,),
            0,
            "layer 0 (dropout2d) does not fit its input (5,): dropout2d needs a map (channels, height, width)",
            id="dropout2d on a vector",
        ),
        pytest.param(
            [FLATTEN, conv(4, 3)],
            (1, 8, 8),
            1,
            "layer 1 (conv2d) does not fit its input (64,): conv2d needs a map (channels, height, width)",
            id="conv2d on a vector",
        ),
        pytest.param(
            [FLATTEN, {"kind": "global_avg_pool2d"}],
            (1, 8, 8),
            1,
            "layer 1 (global_avg_pool2d) does not fit its input (64,): "
            "global_avg_pool2d needs a map (channels, height, width)",
            id="global_avg_pool2d on a vector",
        ),
    ],
)
def test_a_layer_that_does_not_fit_is_named_with_its_kind_and_the_shape_that_reaches_it(
    written: list[dict[str, Any]], shape: Shape, index: int, message: str
) -> None:
    with pytest.raises(LayerDoesNotFit) as refused:
        summarise(layers(*written), shape)
    assert refused.value.index == index
    assert str(refused.value) == message


def test_a_layer_of_a_list_is_named_by_its_place_in_the_spec() -> None:
    ((loc, code, message),) = errors_of({"name": "sequential", "layers": [conv(4, 5), conv(4, 5), FLATTEN, linear(10)]})
    assert (loc, code) == ("network.layers.1", "layer_does_not_fit")
    assert "layer 1 (conv2d)" in message
    assert "(4, 4, 4)" in message


def test_a_layer_of_a_preset_is_named_with_its_index_and_blamed_on_the_network() -> None:
    ((loc, code, message),) = errors_of({"name": "lenet"})
    assert (loc, code) == ("network", "layer_does_not_fit")
    assert message == "layer 3 (conv2d) does not fit its input (6, 2, 2): a 5x5 kernel is larger than the 2x2 map"


@pytest.mark.parametrize(
    ("written", "loc", "output"),
    [
        ([FLATTEN, linear(9)], "network.layers.1", "layer 1 (linear) puts out (9,)"),
        ([conv(10, 8)], "network.layers.0", "layer 0 (conv2d) puts out (10, 1, 1)"),
        ([FLATTEN, linear(10), FLATTEN, linear(1)], "network.layers.3", "layer 3 (linear) puts out (1,)"),
    ],
)
def test_an_output_that_is_not_one_logit_per_class_is_refused_with_both_shapes(
    written: list[dict[str, Any]], loc: str, output: str
) -> None:
    found = errors_of({"name": "sequential", "layers": written})
    assert found == [(loc, "layer_does_not_fit", f"{output}, but digits has 10 classes and needs (10,)")]


def test_a_network_of_too_many_parameters_is_refused_before_it_is_built() -> None:
    wide = [FLATTEN, linear(65_536), linear(65_536), linear(10)]
    parameters = (64 + 1) * 65_536 + (65_536 + 1) * 65_536 + (65_536 + 1) * 10
    assert parameters > MAX_PARAMETERS
    ((loc, code, message),) = errors_of({"name": "sequential", "layers": wide})
    assert (loc, code) == ("network", "network_too_large")
    assert message == f"the network has {parameters:,} parameters; at most 1,000,000,000 are accepted"


def test_as_many_parameters_as_are_accepted_are_accepted() -> None:
    features = 20_000
    inputs = MAX_PARAMETERS // features - 1
    accepted = summarise(layers(linear(features)), (inputs,))
    assert accepted.parameters == MAX_PARAMETERS
    with pytest.raises(NetworkTooLarge):
        summarise(layers(linear(features)), (inputs + 1,))


def test_a_layer_that_puts_out_too_many_values_is_refused_with_its_index() -> None:
    wide = [conv(8, 3, padding=1), conv(65_536, 1, padding=32), {"kind": "global_avg_pool2d"}, FLATTEN, linear(10)]
    values = 65_536 * 72 * 72
    assert values > MAX_ACTIVATIONS
    ((loc, code, message),) = errors_of({"name": "sequential", "layers": wide})
    assert (loc, code) == ("network", "network_too_large")
    assert message == f"layer 1 (conv2d) puts out {values:,} values per sample"


def test_a_list_of_more_layers_than_are_accepted_is_refused() -> None:
    def deep(depth: int) -> dict[str, Any]:
        return {"name": "sequential", "layers": [FLATTEN] * (depth - 1) + [linear(10)]}

    assert MAX_LAYERS == 512
    assert len(job(deep(512)).summary().layers) == 512
    with pytest.raises(ValidationError) as refused:
        job(deep(513))
    (error,) = refused.value.errors()
    assert (error["type"], error["loc"]) == ("too_long", ("network", "sequential", "layers"))
    with pytest.raises(ValidationError):
        job({"name": "sequential", "layers": []})
