"""A look into trained networks: what is dead or unreachable is found, what is healthy is left alone and unchanged."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.result import Diagnosis
from models.spec import JobSpec
from worker.diagnosis import Evidence, diagnose
from worker.networks.layers import Block, Residual
from worker.training.data import DeviceSplit
from worker.training.inspection import dead_units, inspect, parameters_without_gradient
from worker.training.loop import fit
from worker.training.state import TrainState

SAMPLES, CLASSES = 100, 10

MLP = {"name": "mlp", "hidden": [24, 16], "activation": "relu"}
CNN = {
    "name": "sequential",
    "layers": [
        {"kind": "conv2d", "out_channels": 6, "kernel_size": 3},
        {"kind": "batch_norm2d"},
        {"kind": "relu"},
        {"kind": "dropout2d", "probability": 0.3},
        {"kind": "flatten"},
        {"kind": "linear", "out_features": 10},
    ],
}


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(SAMPLES, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels() -> Tensor:
    return torch.randint(0, CLASSES, (SAMPLES,), generator=torch.Generator().manual_seed(2))


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        yield


def small_cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 5, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5 * 36, 20),
        nn.ReLU(inplace=True),
        nn.Linear(20, CLASSES),
    )


def layer(network: nn.Module, index: int) -> nn.Conv2d | nn.Linear:
    found = list(network.children())[index]
    assert isinstance(found, nn.Conv2d | nn.Linear)
    return found


def kill(layer: nn.Conv2d | nn.Linear, units: int) -> None:
    """Give the first units a bias from which no input brings them back."""
    assert layer.bias is not None
    with torch.no_grad():
        layer.bias[:units] = -1e6


def names_without_gradient(network: nn.Module, inputs: Tensor, labels: Tensor) -> list[str]:
    return parameters_without_gradient(network, [(inputs, labels)], functional.cross_entropy)


def said_of(state: TrainState, split: DeviceSplit) -> list[Diagnosis]:
    found = inspect(state, split)
    return diagnose(
        Evidence(dead_units=found.dead_units, parameters_without_gradient=found.parameters_without_gradient)
    )


def test_a_healthy_network_has_nothing_dead_and_nothing_without_gradient(inputs: Tensor, labels: Tensor) -> None:
    network = small_cnn()
    assert dead_units(network, [inputs]) == []
    assert names_without_gradient(network, inputs, labels) == []


def test_dead_channels_and_features_are_counted_per_layer(inputs: Tensor) -> None:
    network = small_cnn()
    kill(layer(network, 0), 2)
    kill(layer(network, 3), 7)
    assert dead_units(network, [inputs]) == [("1", "relu", 2, 5), ("4", "relu", 7, 20)]


def test_a_unit_that_speaks_once_is_alive(inputs: Tensor) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.ReLU())
    kill(layer(network, 1), 4)
    loud = inputs.clone()
    with torch.no_grad():
        layer(network, 1).weight[1].fill_(1.0)
    loud[57] = 1e5
    assert dead_units(network, [inputs]) == [("2", "relu", 4, 4)]
    assert dead_units(network, inputs.split(30)) == [("2", "relu", 4, 4)]
    assert dead_units(network, loud.split(30)) == [("2", "relu", 3, 4)]


def test_rectifiers_alone_are_looked_at(inputs: Tensor) -> None:
    for activation, dead in ((nn.GELU(), 4), (nn.LeakyReLU(), 0), (nn.Tanh(), 0), (nn.Sigmoid(), 0)):
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), activation)
        kill(layer(network, 1), 4)
        assert sum(layer.dead for layer in dead_units(network, [inputs])) == dead


def test_each_application_of_a_shared_block_is_looked_at_by_itself(inputs: Tensor) -> None:
    # The first application brings -1 to 0, where the rectifier is silent from then on.
    negative = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(negative.weight, -1.0)
    network = nn.Sequential(Residual([Block(nn.Sequential(negative, nn.ReLU()), None)], applications=3))
    found = dead_units(network, [torch.full((4, 1, 2, 2), -1.0)])
    assert found == [
        ("0.blocks.0.layers.1, application 2", "relu", 1, 1),
        ("0.blocks.0.layers.1, application 3", "relu", 1, 1),
    ]


def test_an_unused_parameter_has_no_gradient_and_a_frozen_one_is_not_asked(inputs: Tensor, labels: Tensor) -> None:
    network = small_cnn()
    network.register_parameter("unused", nn.Parameter(torch.ones(3)))
    layer(network, 3).weight.requires_grad_(False)
    assert names_without_gradient(network, inputs, labels) == ["unused"]


def test_what_lies_before_a_dead_layer_has_no_gradient(inputs: Tensor, labels: Tensor) -> None:
    network = small_cnn()
    kill(layer(network, 3), 20)
    # The last weight sees zeros alone; its bias still learns.
    assert names_without_gradient(network, inputs, labels) == ["0.weight", "0.bias", "3.weight", "3.bias", "5.weight"]


def test_a_network_of_which_nothing_is_used_has_no_gradient_at_all(inputs: Tensor, labels: Tensor) -> None:
    network = small_cnn().requires_grad_(False)
    assert names_without_gradient(network, inputs, labels) == []
    network.register_parameter("unused", nn.Parameter(torch.ones(3)))
    assert names_without_gradient(network, inputs, labels) == ["unused"]


def test_a_network_that_has_learned_everything_is_not_blamed(inputs: Tensor) -> None:
    network = small_cnn()
    with torch.no_grad():
        layer(network, 5).weight.mul_(1e6)
        labels = network(inputs).argmax(1)
        assert functional.cross_entropy(network(inputs), labels) == 0
    assert names_without_gradient(network, inputs, labels) == []


def test_a_gradient_in_any_batch_is_enough_and_batches_without_a_lesson_do_not_count(inputs: Tensor) -> None:
    network = small_cnn()
    network.register_parameter("unused", nn.Parameter(torch.ones(3)))
    kill(layer(network, 3), 20)
    lessons = [(part, torch.zeros(20, CLASSES)) for part in inputs.split(20)]
    silent_alone = parameters_without_gradient(network, lessons, functional.mse_loss)
    assert "3.weight" in silent_alone
    # A sample that is loud enough wakes the layer in the last batch.
    loud = (inputs[:20] * 1e9, torch.zeros(20, CLASSES))
    assert parameters_without_gradient(network, [*lessons, loud], functional.mse_loss) == ["unused"]
    with torch.no_grad():
        learned = (inputs, network(inputs))
    assert parameters_without_gradient(network, [learned, *lessons], functional.mse_loss) == silent_alone
    assert parameters_without_gradient(network, [learned], functional.mse_loss) == []


def test_a_gradient_that_would_underflow_on_its_way_is_one(inputs: Tensor, labels: Tensor) -> None:
    network = small_cnn()
    hardly_anything = float(torch.finfo(torch.float32).smallest_normal) / 2**20
    found = parameters_without_gradient(
        network, [(inputs, labels)], lambda outputs, _: hardly_anything * outputs.mean()
    )
    assert found == []


@pytest.mark.parametrize("network", [MLP, CNN], ids=["mlp", "cnn"])
def test_inspecting_changes_nothing(
    job: Callable[..., JobSpec],
    pictures: Callable[..., DeviceSplit],
    fresh: Callable[[JobSpec], TrainState],
    network: dict[str, Any],
) -> None:
    spec, split = job(network, epochs=1), pictures(300)
    state = fresh(spec)
    list(fit(state, spec.training, split, split))
    state.network.train()
    next(state.network.children()).eval()
    before = deepcopy(state.state_dict())
    modes = [module.training for module in state.network.modules()]
    gradients = {name: deepcopy(parameter.grad) for name, parameter in state.network.named_parameters()}

    inspect(state, split)

    torch.testing.assert_close(state.state_dict(), before, rtol=0, atol=0)
    assert [module.training for module in state.network.modules()] == modes
    after = {name: parameter.grad for name, parameter in state.network.named_parameters()}
    torch.testing.assert_close(after, gradients, rtol=0, atol=0)
    assert not any(module._forward_hooks for module in state.network.modules())


@pytest.mark.parametrize("network", [MLP, CNN], ids=["mlp", "cnn"])
def test_a_real_training_that_goes_well_has_no_diagnosis_of_its_network(
    job: Callable[..., JobSpec],
    pictures: Callable[..., DeviceSplit],
    fresh: Callable[[JobSpec], TrainState],
    network: dict[str, Any],
) -> None:
    spec = job(network, epochs=4)
    state = fresh(spec)
    list(fit(state, spec.training, pictures(600), pictures(100, seed=1)))
    assert said_of(state, pictures(600)) == []


def test_a_training_that_drives_its_rectifiers_dead_says_so(
    job: Callable[..., JobSpec], pictures: Callable[..., DeviceSplit], fresh: Callable[[JobSpec], TrainState]
) -> None:
    spec = job(MLP, epochs=2)
    state = fresh(spec)
    kill(next(module for module in state.network.modules() if isinstance(module, nn.Linear)), 24)
    list(fit(state, spec.training, pictures(300), None))

    assert inspect(state, pictures(300)).dead_units[0][1:] == ("relu", 24, 24)
    assert [(diagnosis.code, diagnosis.level) for diagnosis in said_of(state, pictures(300))] == [
        ("dead_units", "error"),
        ("parameter_without_gradient", "warning"),
    ]


def test_a_regression_is_inspected_with_its_own_loss(
    job: Callable[..., JobSpec], rows: Callable[..., DeviceSplit], fresh: Callable[[JobSpec], TrainState]
) -> None:
    table = {"name": "table", "file": "rows.csv", "target": "y", "features": ["a", "b", "c", "d"]}
    spec = job({"name": "mlp", "hidden": [8], "activation": "tanh"}, dataset=table, epochs=2)
    state = fresh(spec)
    list(fit(state, spec.training, rows(200), None))
    assert said_of(state, rows(200)) == []


def test_a_split_sorted_by_class_is_looked_at_from_end_to_end(
    job: Callable[..., JobSpec], pictures: Callable[..., DeviceSplit], fresh: Callable[[JobSpec], TrainState]
) -> None:
    state = fresh(job(MLP))
    split = pictures(3_500)
    seen: list[Tensor] = []
    handle = state.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    inspect(state, split)
    handle.remove()
    looked_at = torch.cat(seen[:-1])
    assert torch.equal(looked_at, split.batch(slice(0, None, 4))[0])
    assert len(seen[-1]) == 1
