"""torchvision's classifiers: our table against the installed library, building and counting, weights from a file."""

import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from models.errors import InvalidData
from models.layers import Shape
from models.network import NetworkDoesNotFit, NetworkSummary
from models.presets import Torchvision
from models.torchvision_networks import CLASSIFIERS
from worker.networks import build_network, summarise_module

Build = Callable[..., tuple[nn.Module, NetworkSummary]]
SMALL = "squeezenet1_1"
SAMPLE: Shape = (3, 32, 32)


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Build a classifier by name, its weights from `tmp_path`, where no connection can be made."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a network was to be downloaded")

    monkeypatch.setattr(socket.socket, "connect", refuse)

    def build_by_name(
        architecture: str, shape: Shape = SAMPLE, outputs: int = 10, weights: str | None = None
    ) -> tuple[nn.Module, NetworkSummary]:
        torch.manual_seed(3)
        return build_network(Torchvision(architecture=architecture, weights=weights), shape, outputs, tmp_path)

    return build_by_name


def published(architecture: str) -> dict[str, Any]:
    """Return what torchvision says of the weights that it publishes first for a network."""
    meta: dict[str, Any] = next(iter(torchvision.models.get_model_weights(architecture))).meta
    return meta


def test_every_classifier_that_torchvision_lists_is_known() -> None:
    assert set(torchvision.models.list_models(module=torchvision.models)) <= set(CLASSIFIERS)


def test_no_side_is_refused_that_torchvision_allows() -> None:
    for architecture in torchvision.models.list_models(module=torchvision.models):
        assert CLASSIFIERS[architecture].smallest <= min(published(architecture)["min_size"]), architecture


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [
        ("squeezenet1_1", (3, 17, 17)),
        ("resnet18", (3, 32, 32)),
        ("mobilenet_v3_small", (1, 28, 28)),
        ("shufflenet_v2_x0_5", (3, 32, 32)),
        ("vit_b_32", (3, 32, 32)),
        ("googlenet", (3, 15, 15)),
    ],
)
def test_a_classifier_puts_out_logits_and_learns_on_small_images(build: Build, architecture: str, shape: Shape) -> None:
    network, summary = build(architecture, shape, outputs=7)
    logits = network.train()(torch.randn(2, *shape))
    assert isinstance(logits, Tensor)
    assert logits.shape == (2, 7)
    nn.functional.cross_entropy(logits, torch.tensor([1, 6])).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    with torch.no_grad():
        assert network.eval()(torch.randn(1, *shape)).shape == (1, 7)
    assert summary.output_shape == (7,)
    assert summary.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert summary.parameters == sum(place.parameters for place in summary.layers)
    assert summary.macs == sum(place.macs for place in summary.layers)
    assert summary.shared == {}


def test_resnet18_has_the_counts_that_everybody_knows(build: Build) -> None:
    _, summary = build("resnet18", (3, 224, 224), outputs=1000)
    assert (summary.parameters, summary.macs) == (11_689_512, 1_814_073_344)
    first, *_, last = summary.layers
    assert (first.loc, first.kind, first.input_shape, first.output_shape) == (
        *("conv1", "conv2d"),
        *((3, 224, 224), (64, 112, 112)),
    )
    assert (first.parameters, first.macs) == (9_408, 9_408 * 112 * 112)
    assert (last.loc, last.kind, last.parameters, last.macs) == ("fc", "linear", 513_000, 512_000)
    assert [place.applied for place in summary.layers if place.loc == "layer1.0.relu"] == [2]
    assert summary.largest_activations == 2 * 64 * 112 * 112


@pytest.mark.parametrize("architecture", ["squeezenet1_0", "mobilenet_v3_small", "shufflenet_v2_x1_0", "mnasnet0_5"])
def test_counts_are_those_that_torchvision_publishes(build: Build, architecture: str) -> None:
    facts = published(architecture)
    _, summary = build(architecture, (3, 224, 224), outputs=1000)
    assert summary.parameters == facts["num_params"]
    assert summary.macs / 1e9 == pytest.approx(facts["_ops"], abs=0.0005)


def test_attention_counts_its_linear_layers_and_not_the_products_inside(build: Build) -> None:
    _, summary = build("vit_b_32", (3, 64, 64))
    (attention, *_) = [place for place in summary.layers if place.kind == "multihead_attention"]
    tokens, width = 5, 768
    assert attention.input_shape == (tokens, width)
    assert (attention.parameters, attention.macs) == (4 * (width + 1) * width, 4 * tokens * width**2)


def test_grey_images_reach_a_classifier_as_three_equal_channels(build: Build) -> None:
    grey, summary = build(SMALL, (1, 32, 32))
    colour, expected = build(SMALL, (3, 32, 32))
    sample = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(grey.eval()(sample), colour.eval()(sample.repeat(1, 3, 1, 1)))
    assert (summary.parameters, summary.macs) == (expected.parameters, expected.macs)


def test_random_weights_are_drawn_as_torchvision_draws_them_and_counting_draws_none(build: Build) -> None:
    network, _ = build("resnet18")
    after = torch.get_rng_state()
    torch.manual_seed(3)
    expected = torchvision.models.resnet18(num_classes=10)
    assert torch.equal(after, torch.get_rng_state())
    require_equal(network.state_dict(), expected.state_dict())


def test_counting_leaves_the_network_as_it_was(build: Build) -> None:
    network, _ = build("resnet18")
    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    summarise_module(network, SAMPLE, name="resnet18")
    assert network.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert all(parameter.device.type == "cpu" for parameter in network.parameters())
    require_equal(network.state_dict(), before)


def test_parameters_that_two_modules_share_are_counted_once() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    summary = summarise_module(nn.Sequential(first, second, first), (4,), name="tied")
    assert summary.parameters == 16 + 4 + 4
    assert sum(place.parameters for place in summary.layers) == summary.parameters
    assert summary.macs == 3 * 16
    assert summary.shared == {"0": 2}


def test_a_sample_that_does_not_pass_is_said_with_the_network_and_the_shape() -> None:
    with pytest.raises(NetworkDoesNotFit, match=r"^narrow cannot take samples of shape \(4,\): .*4.*5"):
        summarise_module(nn.Linear(5, 2), (4,), name="narrow")


def require_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def state_of(architecture: str, outputs: int = 10, **options: Any) -> dict[str, Tensor]:
    """Return the weights of another network of this kind, none of them as any seed starts it."""
    state: dict[str, Tensor] = torchvision.models.get_model(architecture, num_classes=outputs, **options).state_dict()
    for tensor in state.values():
        tensor.add_(1)
    return state


@pytest.mark.parametrize("file", ["trained.pth", "trained.pt", "trained.safetensors"])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 32, 32)])
def test_weights_come_from_the_file_that_was_placed(build: Build, tmp_path: Path, file: str, shape: Shape) -> None:
    state = state_of(SMALL)
    (save_file if file.endswith(".safetensors") else torch.save)(state, tmp_path / file)
    network, _ = build(SMALL, shape, weights=file)
    require_equal({name.removeprefix("1."): tensor for name, tensor in network.state_dict().items()}, state)


@pytest.mark.parametrize("file", ["trained.pth", "trained.safetensors"])
def test_weights_of_a_network_that_reads_its_file_s_version_come_from_both_kinds_of_file(
    build: Build, tmp_path: Path, file: str
) -> None:
    state = state_of("mnasnet0_5")
    (save_file if file.endswith(".safetensors") else torch.save)(state, tmp_path / file)
    network, _ = build("mnasnet0_5", weights=file)
    require_equal(network.state_dict(), state)


@pytest.mark.parametrize(("architecture", "head"), [("squeezenet1_1", "classifier.1"), ("resnet18", "fc")])
def test_a_last_layer_for_other_classes_keeps_its_random_start(
    build: Build, tmp_path: Path, architecture: str, head: str
) -> None:
    random, _ = build(architecture, outputs=10)
    state = state_of(architecture, outputs=1000)
    torch.save(state, tmp_path / "trained.pth")
    network, _ = build(architecture, outputs=10, weights="trained.pth")
    started = {name: tensor for name, tensor in random.state_dict().items() if name.startswith(head)}
    assert len(started) == 2
    require_equal(dict(network.state_dict()), state | started)


def test_torchvision_s_own_files_of_googlenet_have_heads_that_are_left_off(build: Build, tmp_path: Path) -> None:
    state = state_of("googlenet", aux_logits=True, init_weights=False)
    torch.save(state, tmp_path / "googlenet.pth")
    network, _ = build("googlenet", weights="googlenet.pth")
    require_equal(network.state_dict(), {name: state[name] for name in network.state_dict()})
    assert len(network.state_dict()) < len(state)


def test_torchvision_s_own_files_of_densenet_have_older_names(build: Build, tmp_path: Path) -> None:
    state = state_of("densenet121")
    older = {
        name.replace("norm1", "norm.1").replace("conv2", "conv.2") if "denselayer" in name else name: tensor
        for name, tensor in state.items()
        if not name.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in older
    torch.save(older, tmp_path / "densenet.pth")
    network, _ = build("densenet121", weights="densenet.pth")
    found = {name: tensor for name, tensor in network.state_dict().items() if "num_batches" not in name}
    require_equal(found, {name: tensor for name, tensor in state.items() if "num_batches" not in name})


def test_a_file_that_is_missing_is_named(build: Build) -> None:
    with pytest.raises(InvalidData) as refused:
        build(SMALL, weights="absent.pth")
    assert str(refused.value) == "Weights file absent.pth is not in the directory of weights."


class Planted:
    """Something that runs code where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_file_that_would_run_code_is_refused_and_does_not_run_it(build: Build, tmp_path: Path) -> None:
    torch.save({"features.0.weight": Planted(tmp_path / "ran")}, tmp_path / "planted.pth")
    with pytest.raises(InvalidData, match=r"^Weights file planted\.pth cannot be read"):
        build(SMALL, weights="planted.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("file", ["damaged.pth", "damaged.safetensors"])
@pytest.mark.parametrize("keep", [0, 1, 40, 5_000, -1_000])
def test_a_damaged_file_is_named(build: Build, tmp_path: Path, file: str, keep: int) -> None:
    path = tmp_path / file
    (save_file if file.endswith(".safetensors") else torch.save)(state_of(SMALL), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InvalidData, match=rf"^Weights file {re.escape(file)} cannot be read \(\w+\): it is damaged"):
        build(SMALL, weights=file)


@pytest.mark.parametrize(
    "content", [[1, 2], {"state_dict": {}, "epoch": 3}, torch.zeros(3), {"w": torch.zeros(3, device="meta")}]
)
def test_a_file_of_something_else_is_refused(build: Build, tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(InvalidData, match=r"^Weights file other\.pth does not hold plain tensors by name"):
        build(SMALL, weights="other.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"features.0.weight": torch.zeros(64, 3, 5, 5)},
            "its tensor features.0.weight is float32 [64, 3, 5, 5], and the network's is float32 [64, 3, 3, 3].",
        ),
        (
            {"features.0.bias": torch.zeros(64, dtype=torch.int64)},
            "its tensor features.0.bias is int64 [64], and the network's is float32 [64].",
        ),
        (
            {"classifier.1.weight": torch.zeros(10, 256, 1, 1)},
            "its tensor classifier.1.weight is float32 [10, 256, 1, 1], and the network's is float32 [10, 512, 1, 1].",
        ),
        (
            {"features.0.bias": torch.full((64,), torch.nan)},
            "its tensor features.0.bias holds values that are not finite.",
        ),
        ({"features.99.weight": torch.zeros(1)}, "its tensor features.99.weight is none of the network's."),
        ({"features.0.bias": None}, "the network's tensor features.0.bias is missing in it."),
        ({"classifier.1.bias": None}, "the network's tensor classifier.1.bias is missing in it."),
    ],
)
def test_a_tensor_that_does_not_match_is_named(
    build: Build, tmp_path: Path, change: dict[str, Tensor | None], message: str
) -> None:
    changed = state_of(SMALL) | change
    torch.save({name: tensor for name, tensor in changed.items() if tensor is not None}, tmp_path / "other.pth")
    with pytest.raises(InvalidData) as refused:
        build(SMALL, weights="other.pth")
    assert str(refused.value) == f"Weights file other.pth: {message}"
