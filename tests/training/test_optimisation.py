"""What one optimiser step does to the weights: penalty, weight decay and momentum against steps by hand."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.spec import JobSpec
from worker.training.data import DeviceSplit
from worker.training.loop import fit, squared_weights, train_one_epoch
from worker.training.state import TrainState

MakeSplit = Callable[..., DeviceSplit]
MakeJob = Callable[..., JobSpec]

CPU = torch.device("cpu")
LINEAR: dict[str, Any] = {
    "name": "sequential",
    "layers": [{"kind": "flatten"}, {"kind": "linear", "out_features": 10}],
}


def weights_of(state: TrainState) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in state.network.parameters()]


def gradients_at(weights: Sequence[Tensor], inputs: Tensor, labels: Tensor) -> list[Tensor]:
    """Return the gradients of the data loss of the network LINEAR with these weights."""
    weight, bias = (tensor.clone().requires_grad_() for tensor in weights)
    functional.cross_entropy(inputs.flatten(1) @ weight.T + bias, labels).backward()
    assert weight.grad is not None
    assert bias.grad is not None
    return [weight.grad, bias.grad]


def test_a_penalty_is_reported_apart_and_moves_the_weights_by_its_formula(pictures: MakeSplit, job: MakeJob) -> None:
    train = pictures(20)
    spec = job(LINEAR, epochs=1, batch_size=20, l2_penalty=0.03)
    state = TrainState.fresh(spec, CPU)
    before = weights_of(state)
    inputs, labels = train.batch(slice(None))
    gradients = gradients_at(before, inputs, labels)
    with torch.no_grad():
        data_loss = functional.cross_entropy(state.network(inputs), labels).item()
    sum_of_squares = sum(float(weight.square().sum()) for weight in before)
    assert squared_weights(state.network).item() == pytest.approx(sum_of_squares, rel=1e-6)

    (metrics,) = fit(state, spec.training, train, None)
    assert metrics.train_loss == pytest.approx(data_loss, abs=1e-6)
    assert metrics.penalty == pytest.approx(0.03 * sum_of_squares, abs=1e-6)
    for after, weight, gradient in zip(weights_of(state), before, gradients, strict=True):
        torch.testing.assert_close(after, weight - 0.05 * (gradient + 2 * 0.03 * weight), atol=1e-6, rtol=0)


def test_a_penalty_is_a_mean_over_samples_too(pictures: MakeSplit, job: MakeJob) -> None:
    train = pictures(9)
    spec = job(LINEAR, epochs=1, batch_size=8, l2_penalty=1.0, learning_rate=0.2)
    state = TrainState.fresh(spec, CPU)
    initial = squared_weights(state.network).item()
    one_step = TrainState.fresh(spec, CPU)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(7))
    inputs, labels = train.batch(order[:8])
    (functional.cross_entropy(one_step.network(inputs), labels) + squared_weights(one_step.network)).backward()
    one_step.optimizer.step()
    second = squared_weights(one_step.network).item()

    _, _, penalty = train_one_epoch(state, spec.training, train, epoch=1)
    assert penalty == pytest.approx((8 * initial + second) / 9, abs=1e-6)
    assert abs(penalty - (initial + second) / 2) > 0.1


def test_weight_decay_and_momentum_are_those_of_torch(pictures: MakeSplit, job: MakeJob) -> None:
    train = pictures(20)
    optimizer = {"momentum": 0.9, "weight_decay": 0.1}
    spec = job(LINEAR, epochs=2, batch_size=20, optimizer=optimizer)
    state = TrainState.fresh(spec, CPU)
    weights = weights_of(state)
    inputs, labels = train.batch(slice(None))
    velocity = [torch.zeros_like(weight) for weight in weights]
    for metrics in fit(state, spec.training, train, None):
        gradients = gradients_at(weights, inputs, labels)
        for index, gradient in enumerate(gradients):
            velocity[index] = 0.9 * velocity[index] + gradient + 0.1 * weights[index]
            weights[index] = weights[index] - 0.05 * velocity[index]
        assert metrics.penalty == 0.0
        for after, weight in zip(weights_of(state), weights, strict=True):
            torch.testing.assert_close(after, weight, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "network", [{"name": "lenet", "batch_norm": True}, {"name": "cnn", "batch_norm": True}, {"name": "mlp"}]
)
def test_the_optimiser_holds_exactly_the_parameters_of_the_network(job: MakeJob, network: dict[str, Any]) -> None:
    state = TrainState.fresh(job(network, dataset="cifar10"), CPU)
    held = [id(parameter) for group in state.optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in state.network.parameters())
    assert all(parameter.requires_grad for parameter in state.network.parameters())
