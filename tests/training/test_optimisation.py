"""What one optimiser step does to the weights: penalty, weight decay and momentum against steps by hand."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from harness.training import LINEAR, Fresh, MakeJob, MakeSplit
from models.spec import JobSpec
from worker.training.data import DeviceSplit
from worker.training.loop import fit, train_one_epoch
from worker.training.state import TrainState
from worker.training.step import squared_weights


def weights_of(state: TrainState) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in state.network.parameters()]


def gradients_at(weights: Sequence[Tensor], inputs: Tensor, labels: Tensor) -> list[Tensor]:
    """Return the gradients of the data loss of the network LINEAR with these weights."""
    weight, bias = (tensor.clone().requires_grad_() for tensor in weights)
    functional.cross_entropy(inputs.flatten(1) @ weight.T + bias, labels).backward()
    assert weight.grad is not None
    assert bias.grad is not None
    return [weight.grad, bias.grad]


def test_a_penalty_is_reported_apart_and_moves_the_weights_by_its_formula(
    pictures: MakeSplit, job: MakeJob, fresh: Fresh
) -> None:
    train = pictures(20)
    spec = job(LINEAR, epochs=1, batch_size=20, l2_penalty=0.03)
    state = fresh(spec)
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


def test_a_penalty_is_a_mean_over_samples_too(pictures: MakeSplit, job: MakeJob, fresh: Fresh) -> None:
    train = pictures(9)
    spec = job(LINEAR, epochs=1, batch_size=8, l2_penalty=1.0, learning_rate=0.2)
    state = fresh(spec)
    initial = squared_weights(state.network).item()
    one_step = fresh(spec)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(7))
    inputs, labels = train.batch(order[:8])
    (functional.cross_entropy(one_step.network(inputs), labels) + squared_weights(one_step.network)).backward()
    one_step.optimizer.step()
    second = squared_weights(one_step.network).item()

    _, _, penalty = train_one_epoch(state, spec.training, train, epoch=1)
    assert penalty == pytest.approx((8 * initial + second) / 9, abs=1e-6)
    assert abs(penalty - (initial + second) / 2) > 0.1


def test_weight_decay_and_momentum_are_those_of_torch(pictures: MakeSplit, job: MakeJob, fresh: Fresh) -> None:
    train = pictures(20)
    optimizer = {"momentum": 0.9, "weight_decay": 0.1}
    spec = job(LINEAR, epochs=2, batch_size=20, optimizer=optimizer)
    state = fresh(spec)
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
def test_the_optimiser_holds_exactly_the_parameters_of_the_network(
    job: MakeJob, fresh: Fresh, network: dict[str, Any]
) -> None:
    state = fresh(job(network, dataset="cifar10"))
    held = [id(parameter) for group in state.optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in state.network.parameters())
    assert all(parameter.requires_grad for parameter in state.network.parameters())


def by_hand(
    state: TrainState, train: DeviceSplit, steps: int, update: Callable[[int, int, Tensor, Tensor], Tensor]
) -> list[Tensor]:
    """Return the weights after full-batch steps of `update(parameter, step, weight, gradient)`."""
    weights = weights_of(state)
    inputs, labels = train.batch(slice(None))
    for step in range(1, steps + 1):
        gradients = gradients_at(weights, inputs, labels)
        pairs = zip(weights, gradients, strict=True)
        weights = [update(index, step, weight, gradient) for index, (weight, gradient) in enumerate(pairs)]
    return weights


def nesterov() -> Callable[[int, int, Tensor, Tensor], Tensor]:
    velocity: dict[int, Tensor] = {}

    def update(index: int, step: int, weight: Tensor, gradient: Tensor) -> Tensor:
        gradient = gradient + 0.1 * weight
        velocity[index] = gradient if step == 1 else 0.9 * velocity[index] + gradient
        return weight - 0.05 * (gradient + 0.9 * velocity[index])

    return update


def adam(*, decoupled: bool) -> Callable[[int, int, Tensor, Tensor], Tensor]:
    first: dict[int, Tensor] = {}
    second: dict[int, Tensor] = {}

    def update(index: int, step: int, weight: Tensor, gradient: Tensor) -> Tensor:
        if decoupled:
            weight = weight - 0.05 * 0.1 * weight
        else:
            gradient = gradient + 0.1 * weight
        first[index] = 0.8 * first.get(index, torch.zeros(())) + 0.2 * gradient
        second[index] = 0.9 * second.get(index, torch.zeros(())) + 0.1 * gradient.square()
        mean, variance = first[index] / (1 - 0.8**step), second[index] / (1 - 0.9**step)
        return weight - 0.05 * mean / (variance.sqrt() + 1e-3)

    return update


def rmsprop() -> Callable[[int, int, Tensor, Tensor], Tensor]:
    squares: dict[int, Tensor] = {}
    velocity: dict[int, Tensor] = {}

    def update(index: int, step: int, weight: Tensor, gradient: Tensor) -> Tensor:
        gradient = gradient + 0.1 * weight
        squares[index] = 0.8 * squares.get(index, torch.zeros(())) + 0.2 * gradient.square()
        velocity[index] = 0.9 * velocity.get(index, torch.zeros(())) + gradient / (squares[index].sqrt() + 1e-3)
        return weight - 0.05 * velocity[index]

    return update


BETAS = {"beta1": 0.8, "beta2": 0.9, "epsilon": 1e-3}


@pytest.mark.parametrize(
    ("optimizer", "update"),
    [
        ({"name": "sgd", "momentum": 0.9, "nesterov": True}, nesterov()),
        ({"name": "adam"} | BETAS, adam(decoupled=False)),
        ({"name": "adamw"} | BETAS, adam(decoupled=True)),
        ({"name": "rmsprop", "smoothing": 0.8, "momentum": 0.9, "epsilon": 1e-3}, rmsprop()),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_every_optimiser_makes_the_steps_of_its_formula(
    pictures: MakeSplit,
    job: MakeJob,
    fresh: Fresh,
    optimizer: dict[str, Any],
    update: Callable[[int, int, Tensor, Tensor], Tensor],
) -> None:
    train = pictures(20)
    spec = job(LINEAR, epochs=3, batch_size=20, optimizer=optimizer | {"weight_decay": 0.1})
    state = fresh(spec)
    expected = by_hand(state, train, 3, update)
    list(fit(state, spec.training, train, None))
    for after, weight in zip(weights_of(state), expected, strict=True):
        torch.testing.assert_close(after, weight, atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop"])
def test_the_defaults_are_those_of_torch(job: MakeJob, fresh: Fresh, name: str) -> None:
    spec = JobSpec.model_validate(
        {
            "dataset": {"name": "digits"},
            "network": LINEAR,
            "training": {"optimizer": {"name": name} | ({"learning_rate": 0.001} if name == "sgd" else {})},
        }
    ).resolved()
    kinds = {
        "sgd": torch.optim.SGD,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "rmsprop": torch.optim.RMSprop,
    }
    state = fresh(spec)
    assert type(state.optimizer) is kinds[name]
    assert state.optimizer.defaults == kinds[name](state.network.parameters()).defaults


def test_labels_are_smoothed_in_what_is_minimised_and_not_in_what_is_reported(
    pictures: MakeSplit, job: MakeJob, fresh: Fresh
) -> None:
    train = pictures(20)
    spec = job(LINEAR, epochs=1, batch_size=20, label_smoothing=0.2)
    state = fresh(spec)
    weight, bias = (tensor.requires_grad_() for tensor in weights_of(state))
    inputs, labels = train.batch(slice(None))
    log_probabilities = (inputs.flatten(1) @ weight.T + bias).log_softmax(1)
    wanted = 0.8 * functional.one_hot(labels, 10) + 0.2 / 10
    (-(wanted * log_probabilities).sum(1).mean()).backward()
    plain = functional.nll_loss(log_probabilities.detach(), labels).item()

    loss, _, _ = train_one_epoch(state, spec.training, train, epoch=1)
    assert loss == pytest.approx(plain, abs=1e-6)
    for after, before in zip(weights_of(state), (weight, bias), strict=True):
        assert before.grad is not None
        torch.testing.assert_close(after, before.detach() - 0.05 * before.grad, atol=1e-6, rtol=0)


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_gradients_longer_than_the_norm_are_scaled_down_to_it_all_together(
    pictures: MakeSplit, job: MakeJob, fresh: Fresh, share: float
) -> None:
    train = pictures(20)
    inputs, labels = train.batch(slice(None))
    before = weights_of(fresh(job(LINEAR)))
    gradients = gradients_at(before, inputs, labels)
    length = float(sum(gradient.square().sum() for gradient in gradients) ** 0.5)
    spec = job(LINEAR, epochs=1, batch_size=20, gradient_clip_norm=share * length)
    state = fresh(spec)
    train_one_epoch(state, spec.training, train, epoch=1)
    for after, weight, gradient in zip(weights_of(state), before, gradients, strict=True):
        torch.testing.assert_close(after, weight - 0.05 * min(1.0, share) * gradient, atol=1e-6, rtol=0)
