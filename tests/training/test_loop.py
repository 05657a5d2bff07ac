"""The training loop: its numbers against loops and steps written out by hand."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from models.errors import NonFiniteLoss
from models.spec import JobSpec
from worker.training.data import DeviceSplit
from worker.training.loop import evaluate, fit, train_one_epoch
from worker.training.state import TrainState

MakeSplit = Callable[..., DeviceSplit]
MakeJob = Callable[..., JobSpec]

CPU = torch.device("cpu")
LINEAR: dict[str, Any] = {
    "name": "sequential",
    "layers": [{"kind": "flatten"}, {"kind": "linear", "out_features": 10}],
}
DROPPING: dict[str, Any] = {
    "name": "sequential",
    "layers": [
        {"kind": "conv2d", "out_channels": 4, "kernel_size": 3},
        {"kind": "batch_norm2d"},
        {"kind": "relu"},
        {"kind": "dropout2d"},
        {"kind": "flatten"},
        {"kind": "dropout"},
        {"kind": "linear", "out_features": 10},
    ],
}


def weights_of(state: TrainState) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in state.network.parameters()]


class NotebookLenet(nn.Module):
    """LeNet as people write it in a notebook."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.conv3 = nn.Conv2d(16, 120, 5)
        self.fc1 = nn.Linear(120, 84)
        self.fc2 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = functional.relu(self.conv3(x)).reshape(-1, 120)
        return self.fc2(functional.relu(self.fc1(x)))  # type: ignore[no-any-return]


def notebook_data(split: DeviceSplit) -> list[tuple[Tensor, int]]:
    """Normalise picture by picture, as `ToTensor` and `Normalize` of torchvision do."""
    mean = torch.tensor([0.4914, 0.4822, 0.4465]).reshape(3, 1, 1)
    std = torch.tensor([0.2470, 0.2435, 0.2616]).reshape(3, 1, 1)
    return [((image / 255 - mean) / std, int(label)) for image, label in zip(split.images, split.labels, strict=True)]


def notebook_batch(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    return torch.stack([image for image, _ in samples]), torch.tensor([label for _, label in samples])


def notebook_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    samples: list[tuple[Tensor, int]],
    order: list[int],
    batch_size: int,
) -> tuple[float, float]:
    network.train()
    loss_sum, correct = 0.0, 0
    for start in range(0, len(order), batch_size):
        x, y = notebook_batch([samples[index] for index in order[start : start + batch_size]])
        optimizer.zero_grad()
        output = network(x)
        loss = nn.CrossEntropyLoss()(output, y)
        loss.backward()
        optimizer.step()
        loss_sum += loss.item() * len(y)
        correct += int((output.argmax(dim=1) == y).sum().item())
    return loss_sum / len(order), correct / len(order)


def notebook_evaluation(network: nn.Module, samples: list[tuple[Tensor, int]]) -> tuple[float, float]:
    network.eval()
    x, y = notebook_batch(samples)
    with torch.no_grad():
        output = network(x)
    return nn.CrossEntropyLoss()(output, y).item(), (output.argmax(dim=1) == y).float().mean().item()


def test_two_epochs_give_the_numbers_of_a_loop_written_in_a_notebook(pictures: MakeSplit, job: MakeJob) -> None:
    train, validation = pictures(300, shape=(3, 32, 32)), pictures(77, shape=(3, 32, 32), seed=1)
    batch_size = 64
    assert len(train) % batch_size, "the last batch is a smaller one"
    spec = job({"name": "lenet"}, dataset="cifar10", epochs=2, batch_size=batch_size, learning_rate=0.1)
    state = TrainState.fresh(spec, CPU)

    notebook = NotebookLenet()
    with torch.no_grad():
        for mine, theirs in zip(notebook.parameters(), state.network.parameters(), strict=True):
            mine.copy_(theirs)
    optimizer = torch.optim.SGD(notebook.parameters(), lr=0.1)
    sampler = torch.Generator().manual_seed(7)
    train_samples, validation_samples = notebook_data(train), notebook_data(validation)

    epochs = list(fit(state, spec.training, train, validation))
    assert [metrics.epoch for metrics in epochs] == [1, 2]
    for metrics in epochs:
        order = torch.randperm(300, generator=sampler).tolist()
        trained = notebook_epoch(notebook, optimizer, train_samples, order, batch_size)
        validated = notebook_evaluation(notebook, validation_samples)
        assert (metrics.train_loss, metrics.train_accuracy) == pytest.approx(trained, abs=1e-6, rel=0)
        assert (metrics.validation_loss, metrics.validation_accuracy) == pytest.approx(validated, abs=1e-6, rel=0)
        assert metrics.learning_rate == 0.1
        assert metrics.penalty == 0.0
    for mine, theirs in zip(notebook.parameters(), state.network.parameters(), strict=True):
        torch.testing.assert_close(theirs, mine, atol=1e-6, rtol=0)


def test_the_loss_is_the_mean_over_samples_and_not_over_batches(pictures: MakeSplit, job: MakeJob) -> None:
    train = pictures(9)
    # So small a learning rate leaves the weights as they are: every batch meets the initial network.
    spec = job(LINEAR, epochs=1, batch_size=8, learning_rate=1e-30)
    state = TrainState.fresh(spec, CPU)
    before = weights_of(state)
    inputs, labels = train.batch(slice(None))
    with torch.no_grad():
        losses = functional.cross_entropy(state.network(inputs), labels, reduction="none")
    order = torch.randperm(9, generator=torch.Generator().manual_seed(7))
    mean_over_batches = torch.stack([losses[order[:8]].mean(), losses[order[8:]].mean()]).mean()

    loss, _, _ = train_one_epoch(state, spec.training, train, epoch=1)
    assert all(torch.equal(a, b) for a, b in zip(before, weights_of(state), strict=True))
    assert loss == pytest.approx(losses.mean().item(), abs=1e-6)
    assert abs(loss - mean_over_batches.item()) > 0.1


def test_every_epoch_trains_in_train_mode_and_is_validated_in_eval_mode_after_it(
    pictures: MakeSplit, job: MakeJob
) -> None:
    spec = job(DROPPING, epochs=2, batch_size=16)
    state = TrainState.fresh(spec, CPU)
    passes: list[tuple[bool, bool]] = []
    state.network.register_forward_hook(lambda network, *_: passes.append((network.training, torch.is_grad_enabled())))
    list(fit(state, spec.training, pictures(40), pictures(30, seed=1)))
    assert passes == 2 * [(True, True), (True, True), (True, True), (False, False)]


def test_an_evaluation_is_in_eval_mode_and_leaves_nothing_behind(pictures: MakeSplit, job: MakeJob) -> None:
    train, split = pictures(64), pictures(1_203, seed=1)
    spec = job(DROPPING, epochs=1, batch_size=16)
    state = TrainState.fresh(spec, CPU)
    train_one_epoch(state, spec.training, train, epoch=1)
    state.optimizer.zero_grad()
    saved = {name: tensor.clone() for name, tensor in state.network.state_dict().items()}
    generator = torch.get_rng_state()

    state.network.train()
    first = evaluate(state, split)
    state.network.train()
    second = evaluate(state, split)
    assert (first.loss, first.accuracy) == (second.loss, second.accuracy)
    assert torch.equal(first.predictions, second.predictions)
    assert not any(module.training for module in state.network.modules())
    assert all(parameter.grad is None for parameter in state.network.parameters())
    assert all(torch.equal(saved[name], tensor) for name, tensor in state.network.state_dict().items())
    assert torch.equal(generator, torch.get_rng_state()), "no random number was drawn"

    inputs, labels = split.batch(slice(None))
    with torch.no_grad():
        logits = state.network.eval()(inputs)
        distorted = functional.cross_entropy(state.network.train()(inputs), labels).item()
    assert first.loss == pytest.approx(functional.cross_entropy(logits, labels).item(), abs=1e-6)
    assert first.accuracy == (logits.argmax(1) == labels).double().mean().item()
    assert abs(first.loss - distorted) > 0.01, "train mode would have given another number"


def first_bad_step(spec: JobSpec, train: DeviceSplit) -> tuple[int, int]:
    """Return epoch and step, both from 1, at which a loop that looks at every loss meets one that is not finite."""
    state = TrainState.fresh(spec, CPU)
    for epoch in range(1, spec.training.epochs + 1):
        order = torch.randperm(len(train), generator=state.sampler)
        for step, indices in enumerate(order.split(spec.training.batch_size), start=1):
            inputs, labels = train.batch(indices)
            loss = functional.cross_entropy(state.network(inputs), labels)
            if not math.isfinite(loss.item()):
                return epoch, step
            state.optimizer.zero_grad()
            loss.backward()
            state.optimizer.step()
    raise AssertionError("every loss was finite")


@pytest.mark.parametrize("batch_size", [5, 100])
def test_a_loss_that_is_not_finite_ends_the_training_and_names_epoch_and_step(
    pictures: MakeSplit, job: MakeJob, batch_size: int
) -> None:
    train = pictures(100)
    network = {"name": "mlp", "hidden": [32] * 8}
    spec = job(network, epochs=20, batch_size=batch_size, learning_rate=1_000.0)
    epoch, step = first_bad_step(spec, train)
    state = TrainState.fresh(spec, CPU)
    with pytest.raises(NonFiniteLoss, match=rf"epoch {epoch}, step {step} of {100 // batch_size}\.$"):
        list(fit(state, spec.training, train, None))
    assert len(state.history) == epoch - 1, "the bad epoch is not in the history"


def test_weights_that_overflow_in_the_very_last_step_are_no_success(pictures: MakeSplit, job: MakeJob) -> None:
    train = pictures(30)
    # Each step multiplies the weights by about two million: the losses of three steps are finite, the fourth is not.
    network = {"name": "mlp", "hidden": [16], "activation": "relu"}
    spec = job(network, epochs=1, batch_size=10, learning_rate=1_000.0, l2_penalty=1_000.0)
    state = TrainState.fresh(spec, CPU)
    (metrics,) = fit(state, spec.training, train, None)
    assert math.isfinite(metrics.train_loss)
    with pytest.raises(NonFiniteLoss, match="loss after the last epoch"):
        evaluate(state, train)

    state = TrainState.fresh(spec, CPU)
    with pytest.raises(NonFiniteLoss, match="validation loss of epoch 1"):
        list(fit(state, spec.training, train, train))


class HostReads(TorchDispatchMode):
    """Counts the reads of a tensor's value by the host: on a GPU each waits for everything that was queued."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("network", "l2_penalty"), [(DROPPING, 0.0), ({"name": "mlp"}, 0.01)])
def test_no_step_waits_for_the_device(
    pictures: MakeSplit, job: MakeJob, network: dict[str, Any], l2_penalty: float
) -> None:
    train = pictures(96)

    def reads(batch_size: int) -> int:
        optimizer = {"momentum": 0.9, "weight_decay": 0.01}
        spec = job(network, batch_size=batch_size, l2_penalty=l2_penalty, optimizer=optimizer)
        state = TrainState.fresh(spec, CPU)
        host = HostReads()
        with host:
            train_one_epoch(state, spec.training, train, epoch=1)
        return host.count

    assert 0 < reads(batch_size=96) == reads(batch_size=3)
