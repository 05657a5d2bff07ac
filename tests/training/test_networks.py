"""What is built from a list of layers: what residuals compute, how weights start, and what torch would refuse."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from torch import Tensor, nn

from models import layers as data
from models.layers import Layer, Shape
from models.network import LayerDoesNotFit, summarise
from models.presets import Mlp, Network, Resnet
from worker.networks import build, build_network

LAYER: TypeAdapter[Layer] = TypeAdapter(Layer)


def built(shape: Shape, *written: dict[str, Any]) -> nn.Sequential:
    return build([LAYER.validate_python(layer) for layer in written], shape)


def conv(channels: int, **more: Any) -> dict[str, Any]:
    return {"kind": "conv2d", "out_channels": channels, "kernel_size": 3, "padding": 1, **more}


def linear(features: int, **more: Any) -> dict[str, Any]:
    return {"kind": "linear", "out_features": features, **more}


def residual(*layers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"kind": "residual", "layers": list(layers), **more}


def require_equal_states(first: nn.Module, second: nn.Module) -> None:
    ours, theirs = list(first.state_dict().values()), list(second.state_dict().values())
    assert len(ours) == len(theirs)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_a_residual_adds_its_input_to_what_its_layers_make_of_it() -> None:
    network = built((3, 5, 5), residual(conv(3), {"kind": "relu"}))
    convolution = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    sample = torch.randn(2, 3, 5, 5)
    assert torch.equal(network(sample), torch.relu(convolution(sample)) + sample)


def test_a_residual_between_maps_of_different_shape_adds_a_1x1_convolution_without_bias() -> None:
    network = built((3, 9, 8), residual(conv(5, stride=2)))
    main, added = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    assert (added.kernel_size, added.stride, added.bias) == ((1, 1), (2, 2), None)
    sample = torch.randn(2, 3, 9, 8)
    assert torch.equal(network(sample), main(sample) + added(sample))


def test_a_residual_between_vectors_of_different_length_adds_a_linear_layer_without_bias() -> None:
    network = built((4,), residual(linear(6), {"kind": "tanh"}))
    main, added = (module for module in network.modules() if isinstance(module, nn.Linear))
    assert added.bias is None
    sample = torch.randn(2, 4)
    assert torch.equal(network(sample), torch.tanh(main(sample)) + added(sample))


def test_blocks_with_weights_of_their_own_follow_each_other() -> None:
    network = built((4,), residual(linear(4), repeat=3))
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    assert len(layers) == 3
    sample = torch.randn(2, 4)
    expected = sample
    for layer in layers:
        expected = layer(expected) + expected
    assert torch.equal(network(sample), expected)


def test_a_shared_block_is_one_module_applied_again_and_again() -> None:
    network = built((4,), residual(linear(4), repeat=3, share_weights=True))
    (layer,) = (module for module in network.modules() if isinstance(module, nn.Linear))
    sample = torch.randn(2, 4)
    expected = sample
    for _ in range(3):
        expected = layer(expected) + expected
    assert torch.equal(network(sample), expected)


@pytest.mark.parametrize("share_weights", [True, False])
def test_the_state_of_a_network_with_residuals_goes_into_another_of_its_kind_and_back(share_weights: bool) -> None:
    network = Resnet(channels=4, blocks=3, share_weights=share_weights, batch_norm="before_activation")
    first, second = (build(network.layer_list(10), (1, 8, 8)) for _ in range(2))
    for _ in range(2):
        first(torch.randn(5, 1, 8, 8))  # running statistics move too
    state = first.state_dict()
    assert sum(name.endswith("running_mean") for name in state) == (1 if share_weights else 3)
    second.load_state_dict(state, strict=True)
    require_equal_states(first, second)
    sample = torch.randn(5, 1, 8, 8)
    assert torch.equal(first.eval()(sample), second.eval()(sample))


def test_weights_come_from_the_global_generator_in_the_order_of_the_list() -> None:
    torch.manual_seed(11)
    network = built((3, 8, 8), conv(4), {"kind": "flatten"}, linear(5), linear(2))
    torch.manual_seed(11)
    require_equal_states(
        network, nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(256, 5), nn.Linear(5, 2))
    )


def test_weights_that_are_initialised_otherwise_are_drawn_after_the_layer_s_own_as_a_script_would() -> None:
    torch.manual_seed(11)
    network = built((3, 8, 8), conv(4, initialization="kaiming_normal"), conv(2))
    torch.manual_seed(11)
    first = nn.Conv2d(3, 4, 3, padding=1)
    nn.init.kaiming_normal_(first.weight, nonlinearity="relu")
    require_equal_states(network, nn.Sequential(first, nn.Conv2d(4, 2, 3, padding=1)))


@pytest.mark.parametrize("kind", ["conv2d", "linear"])
def test_an_initialisation_has_its_spread_and_leaves_the_bias_as_torch_starts_it(kind: str) -> None:
    def start(initialization: str) -> tuple[Tensor, Tensor]:
        torch.manual_seed(5)
        if kind == "conv2d":
            network = built((40, 8, 8), conv(120, initialization=initialization))
        else:
            network = built((360,), linear(1080, initialization=initialization))
        weight, bias = network.parameters()
        return weight.detach(), bias.detach()

    (_, default_bias), (normal, normal_bias), (uniform, uniform_bias) = map(
        start, ["default", "kaiming_normal", "xavier_uniform"]
    )
    assert torch.equal(normal_bias, default_bias)
    assert torch.equal(uniform_bias, default_bias)
    # He et al. 2015: variance 2 / fan_in. Glorot and Bengio 2010: within sqrt(6 / (fan_in + fan_out)). Fan-in 360.
    assert float(normal.std()) == pytest.approx((2 / 360) ** 0.5, rel=0.02)
    bound = (6 / (360 + 1080)) ** 0.5
    assert bound * 0.99 < float(uniform.abs().max()) <= bound


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        ({"kind": "batch_norm1d"}, (6,)),
        ({"kind": "batch_norm2d"}, (6, 2, 2)),
        ({"kind": "layer_norm"}, (6, 2, 2)),
        ({"kind": "group_norm", "groups": 3}, (6, 2, 2)),
    ],
)
def test_the_weights_of_a_norm_start_at_the_constant_that_was_asked_for(norm: dict[str, Any], shape: Shape) -> None:
    for asked, expected in ((0.5, 0.5), (0.0, 0.0), (None, 1.0)):
        weight, bias = built(shape, norm | {"initial_weight": asked}).parameters()
        assert weight.unique().tolist() == [expected]
        assert bias.unique().tolist() == [0.0]


@pytest.mark.parametrize("shape", [(6,), (6, 2, 3)])
def test_a_softmax_sums_to_one_over_features_or_channels(shape: Shape) -> None:
    sample = torch.randn(4, *shape)
    probabilities = built(shape, {"kind": "softmax"})(sample)
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(4, *shape[1:]))
    assert torch.allclose(built(shape, {"kind": "log_softmax"})(sample), probabilities.log())


def test_an_activation_does_what_its_field_says() -> None:
    assert built((2,), {"kind": "leaky_relu", "negative_slope": 0.25})(torch.tensor([[-4.0, 4.0]])).tolist() == [
        [-1, 4]
    ]


@pytest.mark.parametrize("network", [Mlp(hidden=[8]), Resnet(channels=4, blocks=2, share_weights=True)])
def test_a_network_comes_with_its_counts(network: Network, tmp_path: Any) -> None:
    module, summary = build_network(network, (3, 8, 8), 7, tmp_path)
    assert module(torch.zeros(2, 3, 8, 8)).shape == (2, 7)
    assert summary.output_shape == (7,)
    assert summary.parameters == sum(parameter.numel() for parameter in module.parameters())


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
        layer = data.MaxPool2d(kernel_size=kernel_size, stride=stride, padding=padding)
        module = nn.MaxPool2d(kernel_size, stride, padding)
    else:
        layer = data.AvgPool2d(kernel_size=kernel_size, stride=stride, padding=padding)
        module = nn.AvgPool2d(kernel_size, stride, padding)
    try:
        expected: Shape | None = tuple(module(sample).shape[1:])
    except RuntimeError:
        expected = None
    try:
        found: Shape | None = summarise([layer], (2, *size)).output_shape
    except LayerDoesNotFit:
        found = None
    assert found == expected
