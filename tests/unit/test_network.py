"""Networks that do not fit: what is refused, and that the message names the layer and the shapes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from models.errors import InvalidSpec
from models.layers import MAX_LAYERS, Conv2d, Layer, Linear, Shape
from models.network import (
    MAX_ACTIVATIONS,
    MAX_APPLICATIONS,
    MAX_DEPTH,
    MAX_PARAMETERS,
    DoubleSoftmax,
    LayerDoesNotFit,
    NetworkTooLarge,
    projection,
    refuse_final_softmax,
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


def residual(*inside: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"kind": "residual", "layers": list(inside), **more}


POOL: dict[str, Any] = {"kind": "max_pool2d"}
FLATTEN: dict[str, Any] = {"kind": "flatten"}
RELU: dict[str, Any] = {"kind": "relu"}


def job(network: dict[str, Any], dataset: str = "digits") -> JobSpec:
    return JobSpec.model_validate({"dataset": {"name": dataset}, "network": network})


def errors_of(network: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return (loc, code, message) of what is wrong with a network on digits, 1x8x8."""
    with pytest.raises(InvalidSpec) as refused:
        job(network).resolved()
    return [(error.loc, error.code, error.message) for error in refused.value.errors]


@pytest.mark.parametrize(
    ("written", "shape", "loc", "message"),
    [
        pytest.param(
            [conv(4, 3), POOL, conv(4, 5)],
            (1, 8, 8),
            "2",
            "layer 2 (conv2d) does not fit its input (4, 3, 3): a 5x5 kernel is larger than the 3x3 map",
            id="a 5x5 kernel on a 3x3 map",
        ),
        pytest.param(
            [conv(4, 9, padding=2)],
            (1, 3, 9),
            "0",
            "layer 0 (conv2d) does not fit its input (1, 3, 9): a 9x9 kernel is larger than the 3x9 map with padding 2",
            id="a kernel on a map that is too low even with its padding",
        ),
        pytest.param(
            [conv(4, 3), {"kind": "avg_pool2d", "kernel_size": 7}],
            (1, 8, 8),
            "1",
            "layer 1 (avg_pool2d) does not fit its input (4, 6, 6): a 7x7 kernel is larger than the 6x6 map",
            id="a pool larger than its map",
        ),
        pytest.param(
            [conv(4, 3), linear(10)],
            (1, 8, 8),
            "1",
            "layer 1 (linear) does not fit its input (4, 6, 6): linear needs a vector (features,): "
            "put a flatten layer before it",
            id="linear after a map that is not flattened",
        ),
        pytest.param(
            [FLATTEN, linear(20), {"kind": "batch_norm2d"}],
            (1, 8, 8),
            "2",
            "layer 2 (batch_norm2d) does not fit its input (20,): batch_norm2d needs a map (channels, height, width)",
            id="batch_norm2d on a vector",
        ),
        pytest.param(
            [{"kind": "dropout2d"}],
            (5,),
            "0",
            "layer 0 (dropout2d) does not fit its input (5,): dropout2d needs a map (channels, height, width)",
            id="dropout2d on a vector",
        ),
        pytest.param(
            [FLATTEN, conv(4, 3)],
            (1, 8, 8),
            "1",
            "layer 1 (conv2d) does not fit its input (64,): conv2d needs a map (channels, height, width)",
            id="conv2d on a vector",
        ),
        pytest.param(
            [FLATTEN, {"kind": "global_avg_pool2d"}],
            (1, 8, 8),
            "1",
            "layer 1 (global_avg_pool2d) does not fit its input (64,): "
            "global_avg_pool2d needs a map (channels, height, width)",
            id="global_avg_pool2d on a vector",
        ),
        pytest.param(
            [linear(4), {"kind": "batch_norm1d"}, {"kind": "group_norm", "groups": 3}],
            (5,),
            "2",
            "layer 2 (group_norm) does not fit its input (4,): 3 groups do not divide its 4 channels",
            id="groups that do not divide the channels",
        ),
        pytest.param(
            [{"kind": "group_norm", "groups": 4}],
            (4, 1, 1),
            "0",
            "layer 0 (group_norm) does not fit its input (4, 1, 1): "
            "group_norm of a single value per group leaves nothing of it",
            id="groups of a single value",
        ),
        pytest.param(
            [linear(1), {"kind": "layer_norm"}],
            (5,),
            "1",
            "layer 1 (layer_norm) does not fit its input (1,): layer_norm of a single value leaves nothing of it",
            id="layer_norm of a single value",
        ),
        pytest.param(
            [{"kind": "batch_norm1d"}],
            (1, 8, 8),
            "0",
            "layer 0 (batch_norm1d) does not fit its input (1, 8, 8): "
            "batch_norm1d needs a vector (features,): put a flatten layer before it",
            id="batch_norm1d on a map",
        ),
        pytest.param(
            [{"kind": "adaptive_avg_pool2d", "output_size": 2}],
            (5,),
            "0",
            "layer 0 (adaptive_avg_pool2d) does not fit its input (5,): "
            "adaptive_avg_pool2d needs a map (channels, height, width)",
            id="adaptive_avg_pool2d on a vector",
        ),
        pytest.param(
            [{"kind": "max_pool2d", "kernel_size": 3, "padding": 2}],
            (1, 8, 8),
            "0",
            "layer 0 (max_pool2d) does not fit its input (1, 8, 8): padding 2 is more than half of the 3x3 kernel",
            id="a pool padded by more than half of its kernel",
        ),
        pytest.param(
            [conv(4, 3), residual(RELU, conv(4, 7))],
            (1, 8, 8),
            "1.layers.1",
            "layer 1.1 (conv2d) does not fit its input (4, 6, 6): a 7x7 kernel is larger than the 6x6 map",
            id="a layer inside a residual",
        ),
        pytest.param(
            [RELU, residual(residual(linear(3)))],
            (1, 8, 8),
            "1.layers.0.layers.0",
            "layer 1.0.0 (linear) does not fit its input (1, 8, 8): linear needs a vector (features,): "
            "put a flatten layer before it",
            id="a layer inside a residual inside a residual",
        ),
        pytest.param(
            [residual(conv(1, 3))],
            (1, 8, 8),
            "0",
            "layer 0 (residual) does not fit its input (1, 8, 8): "
            "its layers put out (1, 6, 6), to which no 1x1 projection brings the input",
            id="a residual whose map shrinks by its edges",
        ),
        pytest.param(
            [residual(FLATTEN)],
            (1, 8, 8),
            "0",
            "layer 0 (residual) does not fit its input (1, 8, 8): "
            "its layers put out (64,), to which no 1x1 projection brings the input",
            id="a residual that makes a vector of a map",
        ),
        pytest.param(
            [residual(linear(3), repeat=2, share_weights=True)],
            (5,),
            "0",
            "layer 0 (residual) does not fit its input (5,): "
            "its layers put out (3,), and shared weights need the same shape before and after",
            id="shared weights where the shape changes",
        ),
        pytest.param(
            [residual(conv(2, 3, stride=2, padding=1), {"kind": "avg_pool2d"}, repeat=2)],
            (1, 8, 8),
            "0.layers.1",
            "layer 0.1 (avg_pool2d) does not fit its input (2, 1, 1): a 2x2 kernel is larger than the 1x1 map",
            id="a map that the second repetition makes too small",
        ),
    ],
)
def test_a_layer_that_does_not_fit_is_named_with_its_kind_and_the_shape_that_reaches_it(
    written: list[dict[str, Any]], shape: Shape, loc: str, message: str
) -> None:
    with pytest.raises(LayerDoesNotFit) as refused:
        summarise(layers(*written), shape)
    assert refused.value.loc == loc
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
    accepted = job(deep(512)).summary()
    assert accepted is not None
    assert len(accepted.layers) == 512
    with pytest.raises(ValidationError) as refused:
        job(deep(513))
    (error,) = refused.value.errors()
    assert (error["type"], error["loc"]) == ("too_long", ("network", "sequential", "layers"))
    with pytest.raises(ValidationError):
        job({"name": "sequential", "layers": []})


def test_a_layer_inside_a_residual_is_named_by_its_place_in_the_spec() -> None:
    ((loc, code, _),) = errors_of({"name": "sequential", "layers": [residual(RELU, linear(3)), FLATTEN, linear(10)]})
    assert (loc, code) == ("network.layers.0.layers.1", "layer_does_not_fit")


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.integers(1, 12))
def test_a_projection_is_found_exactly_where_some_stride_of_a_1x1_window_fits(
    height: int, width: int, new_height: int, new_width: int
) -> None:
    def after(stride: int) -> Shape:
        return Conv2d(out_channels=5, kernel_size=1, stride=stride).output_shape((3, height, width))

    target = (5, new_height, new_width)
    expected = any(after(stride) == target for stride in range(1, 13))
    try:
        found = projection((3, height, width), target)
    except ValueError:
        assert not expected
    else:
        assert isinstance(found, Conv2d)
        assert expected
        assert (found.output_shape((3, height, width)), found.bias) == (target, False)


def test_no_projection_stands_where_the_shapes_agree_and_a_linear_one_between_vectors() -> None:
    assert projection((3, 4, 4), (3, 4, 4)) is None
    assert projection((3,), (4,)) == Linear(out_features=4, bias=False)
    with pytest.raises(ValueError, match="no 1x1 projection"):
        projection((1, 3_000, 3_000), (1, 1, 1))  # would need a stride beyond the largest kernel


def test_a_shared_block_has_its_parameters_once_and_its_macs_each_time() -> None:
    once = summarise(layers(residual(linear(6), RELU)), (6,))
    shared = summarise(layers(residual(linear(6), RELU, repeat=10, share_weights=True)), (6,))
    apart = summarise(layers(residual(linear(6), RELU, repeat=10)), (6,))
    assert (once.parameters, once.macs) == (42, 36)
    assert (shared.parameters, shared.macs) == (42, 360)
    assert (apart.parameters, apart.macs) == (420, 360)
    assert (once.shared, shared.shared, apart.shared) == ({}, {"0": 10}, {})
    assert [(place.loc, place.applied) for place in shared.places()] == [
        ("0", 10),
        ("0.layers.0", 10),
        ("0.layers.1", 10),
    ]
    assert [(place.loc, place.applied) for place in apart.places()] == [("0", 1), ("0.layers.0", 1), ("0.layers.1", 1)]


def test_weights_shared_inside_separate_blocks_are_found_where_they_are_shared() -> None:
    inner = residual(linear(6), repeat=4, share_weights=True)
    summary = summarise(layers(RELU, residual(RELU, inner, repeat=3)), (6,))
    assert summary.shared == {"1.layers.1": 4}
    assert (summary.parameters, summary.macs) == (3 * 42, 3 * 4 * 36)
    outer = summarise(layers(residual(inner, repeat=3, share_weights=True)), (6,))
    assert outer.shared == {"0": 3}
    assert [place.applied for place in outer.places()] == [3, 12, 12]
    assert (outer.parameters, outer.macs) == (42, 12 * 36)


def test_a_layer_without_weights_shares_none() -> None:
    assert summarise(layers(residual(RELU, repeat=5, share_weights=True)), (6,)).shared == {}


def test_a_projection_is_listed_and_counted_with_the_first_repetition() -> None:
    (place,) = summarise(layers(residual(conv(4, 3, padding=1), repeat=2)), (1, 8, 8)).layers
    first, added = place.layers
    assert (added.loc, added.kind, added.parameters, added.macs) == ("0.projection", "projection", 4, 4 * 64)
    assert first.parameters == 4 * 10
    assert place.parameters == 4 * 10 + 4 + 4 * 37


def test_the_largest_activations_are_looked_for_inside_residuals_too() -> None:
    wide = [conv(100, 1), conv(1, 1)]
    flat = summarise(layers(*wide), (1, 8, 8))
    assert flat.largest_activations == 101 * 64
    # Around the wide layers the residual keeps its input.
    assert summarise(layers(residual(*wide)), (1, 8, 8)).largest_activations == 102 * 64
    # The second repetition has 8 channels to begin with, and the 16x16 map only inside.
    grows = [conv(8, 1, padding=4), {"kind": "avg_pool2d"}]
    assert summarise(layers(residual(*grows, repeat=2)), (2, 8, 8)).largest_activations == 8 * 64 + 8 * 256 + 8 * 64


@pytest.mark.parametrize(
    ("written", "applications"),
    [
        ([residual(RELU, repeat=100)] * 41, 41 * 101),
        ([residual(residual(RELU, repeat=100), repeat=41)], 1 + 41 * 101),
        ([residual(residual(residual(residual(*[RELU] * 500, repeat=100), repeat=100), repeat=100), repeat=100)], None),
    ],
)
@pytest.mark.parametrize("share_weights", [True, False])
def test_too_many_repetitions_are_refused_before_they_are_followed(
    written: list[dict[str, Any]], applications: int | None, share_weights: bool
) -> None:
    def shared(layer: dict[str, Any]) -> dict[str, Any]:
        if "layers" not in layer:
            return layer
        return layer | {"layers": [shared(inner) for inner in layer["layers"]], "share_weights": share_weights}

    count = applications or 1 + 100 * (1 + 100 * (1 + 100 * (1 + 100 * 500)))
    assert count > MAX_APPLICATIONS
    with pytest.raises(NetworkTooLarge) as refused:
        summarise(layers(*map(shared, written)), (4,))
    assert (
        str(refused.value) == f"the network has {count:,} layers with all their repetitions; at most 4,096 are accepted"
    )


def test_as_many_repetitions_as_are_accepted_are_followed() -> None:
    written = [residual(*[RELU] * 8, repeat=100)] * 5 + [RELU] * (MAX_APPLICATIONS - 5 * 801)
    assert summarise(layers(*written), (4,)).output_shape == (4,)
    with pytest.raises(NetworkTooLarge):
        summarise(layers(*written, RELU), (4,))


def test_layers_inside_residuals_count_among_those_that_are_accepted() -> None:
    assert summarise(layers(residual(*[RELU] * (MAX_LAYERS - 1))), (4,)).output_shape == (4,)
    with pytest.raises(NetworkTooLarge, match="has 513 layers; at most 512 are accepted"):
        summarise(layers(RELU, residual(*[RELU] * (MAX_LAYERS - 1))), (4,))


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 60])
def test_residuals_nested_deeper_than_is_accepted_are_refused(depth: int) -> None:
    def nested(levels: int) -> dict[str, Any]:
        return residual(nested(levels - 1)) if levels else RELU

    assert summarise(layers(nested(MAX_DEPTH)), (4,)).output_shape == (4,)
    with pytest.raises(NetworkTooLarge, match="residuals are nested more than 4 deep"):
        summarise(layers(nested(depth)), (4,))


@pytest.mark.parametrize("kind", ["softmax", "log_softmax"])
@pytest.mark.parametrize(
    "after",
    [
        [],
        [{"kind": "dropout"}],
        [{"kind": "dropout2d"}, FLATTEN],
        [{"kind": "global_avg_pool2d"}, FLATTEN],
        [POOL, {"kind": "adaptive_avg_pool2d", "output_size": 1}, FLATTEN],
        [RELU, {"kind": "leaky_relu"}],
    ],
)
def test_a_softmax_that_cross_entropy_would_repeat_is_refused_with_what_to_do(
    kind: str, after: list[dict[str, Any]]
) -> None:
    with pytest.raises(DoubleSoftmax) as refused:
        refuse_final_softmax(layers(linear(10), {"kind": kind}, *after), "classification")
    assert (refused.value.code, refused.value.loc) == ("double_softmax", "1")
    assert str(refused.value).startswith(
        f"layer 1 ({kind}) ends the network, and cross entropy applies a softmax itself"
    )
    assert "Remove the layer" in str(refused.value)


@pytest.mark.parametrize("kind", ["softmax", "log_softmax"])
def test_a_regression_that_ends_in_a_softmax_is_refused_because_it_is_constant(kind: str) -> None:
    with pytest.raises(DoubleSoftmax, match="the same number whatever the input") as refused:
        refuse_final_softmax(layers(linear(1), {"kind": kind}), "regression")
    assert refused.value.loc == "1"


@pytest.mark.parametrize(
    "written",
    [
        [linear(4), {"kind": "softmax"}, linear(10)],
        [linear(10), RELU, FLATTEN],
        [linear(10), residual({"kind": "softmax"})],
        [FLATTEN, {"kind": "dropout"}],
    ],
)
def test_a_softmax_elsewhere_is_nobody_s_business(written: list[dict[str, Any]]) -> None:
    refuse_final_softmax(layers(*written), "classification")


@pytest.mark.parametrize(
    ("inside", "shape"),
    [
        ([conv(4, 3, padding=1), RELU], (1, 8, 8)),
        ([conv(1, 3, padding=1)], (1, 8, 8)),
        ([conv(4, 3, padding=1, stride=2)], (1, 64, 64)),
        ([conv(4, 3, padding=1), POOL], (3, 256, 128)),
        ([linear(7), RELU], (5,)),
        ([residual(conv(8, 3, padding=1), repeat=3), {"kind": "dropout2d"}], (1, 8, 8)),
        ([residual(conv(8, 3, padding=1, stride=2), repeat=2), RELU], (1, 256, 256)),
    ],
)
@pytest.mark.parametrize("repeat", [1, 2, 3, 4])
def test_a_residual_that_is_repeated_counts_as_that_many_residuals(
    inside: list[dict[str, Any]], shape: Shape, repeat: int
) -> None:
    repeated = summarise(layers(residual(*inside, repeat=repeat)), shape)
    one_by_one = summarise(layers(*[residual(*inside)] * repeat), shape)
    for figure in ("output_shape", "parameters", "macs"):
        assert getattr(repeated, figure) == getattr(one_by_one, figure), figure
    assert repeated.layers[0].layers == one_by_one.layers[0].layers
    assert repeated.largest_activations == one_by_one.largest_activations


def test_a_repetition_that_no_longer_fits_is_refused_as_the_first_would_be() -> None:
    shrinking = layers(residual(conv(4, 2, stride=2), repeat=4))
    assert summarise(shrinking, (1, 16, 16)).output_shape == (4, 1, 1)
    with pytest.raises(LayerDoesNotFit, match=r"layer 0\.0 \(conv2d\) does not fit its input \(4, 1, 1\)"):
        summarise(shrinking, (1, 8, 8))
