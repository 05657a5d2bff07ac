"""The training as people write it in a notebook, with torch alone, must give the losses of ours."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from models.spec import JobSpec
from worker.training.data import DeviceSplit
from worker.training.loop import fit
from worker.training.state import TrainState

BATCH_SIZE = 64
OPTIMIZERS: dict[str, tuple[dict[str, Any], Callable[[nn.Module], torch.optim.Optimizer]]] = {
    "sgd": (
        {"name": "sgd", "learning_rate": 0.1},
        lambda network: torch.optim.SGD(network.parameters(), lr=0.1),
    ),
    "sgd with momentum and weight decay": (
        {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 5e-4},
        lambda network: torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4),
    ),
    "adam": (
        {"name": "adam", "learning_rate": 0.001},
        lambda network: torch.optim.Adam(network.parameters(), lr=0.001),
    ),
}


class LeNet(nn.Module):
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


def dataset_of(split: DeviceSplit) -> TensorDataset:
    """Normalise as `ToTensor` and `Normalize` of torchvision do, with the published figures."""
    mean = torch.tensor([0.4914, 0.4822, 0.4465]).reshape(3, 1, 1)
    std = torch.tensor([0.2470, 0.2435, 0.2616]).reshape(3, 1, 1)
    return TensorDataset((split.inputs / 255 - mean) / std, split.targets)


def train_epoch(
    network: nn.Module, optimizer: torch.optim.Optimizer, dataset: TensorDataset, order: list[int]
) -> tuple[float, float]:
    criterion = nn.CrossEntropyLoss()
    running_loss, correct = 0.0, 0
    network.train()
    for x, y in DataLoader(dataset, batch_size=BATCH_SIZE, sampler=order):
        optimizer.zero_grad()
        output = network(x)
        loss = criterion(output, y)
        loss.backward()
        optimizer.step()
        running_loss += loss.item() * len(y)
        correct += int((output.argmax(dim=1) == y).sum().item())
    return running_loss / len(order), correct / len(order)


def validate(network: nn.Module, dataset: TensorDataset) -> tuple[float, float]:
    criterion = nn.CrossEntropyLoss(reduction="sum")
    running_loss, correct = 0.0, 0
    network.eval()
    with torch.no_grad():
        for x, y in DataLoader(dataset, batch_size=BATCH_SIZE):
            output = network(x)
            running_loss += criterion(output, y).item()
            correct += int((output.argmax(dim=1) == y).sum().item())
    return running_loss / len(dataset), correct / len(dataset)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_epochs_give_the_losses_of_a_loop_written_in_a_notebook(
    pictures: Callable[..., DeviceSplit],
    job: Callable[..., JobSpec],
    fresh: Callable[[JobSpec], TrainState],
    name: str,
) -> None:
    ours, make_theirs = OPTIMIZERS[name]
    train, validation = pictures(300, shape=(3, 32, 32)), pictures(77, shape=(3, 32, 32), seed=1)
    assert len(train) % BATCH_SIZE, "the last batch is a smaller one"
    spec = job({"name": "lenet"}, dataset="cifar10", epochs=2, batch_size=BATCH_SIZE, optimizer=ours)
    state = fresh(spec)

    network = LeNet()
    with torch.no_grad():
        for mine, initial in zip(network.parameters(), state.network.parameters(), strict=True):
            mine.copy_(initial)
    optimizer = make_theirs(network)
    sampler = torch.Generator().manual_seed(7)
    train_dataset, validation_dataset = dataset_of(train), dataset_of(validation)

    epochs = list(fit(state, spec.training, train, validation))
    assert [metrics.epoch for metrics in epochs] == [1, 2]
    for metrics in epochs:
        order = torch.randperm(len(train), generator=sampler).tolist()
        trained = train_epoch(network, optimizer, train_dataset, order)
        validated = validate(network, validation_dataset)
        assert (metrics.train_loss, metrics.train_accuracy) == pytest.approx(trained, abs=1e-6, rel=0)
        assert (metrics.validation_loss, metrics.validation_accuracy) == pytest.approx(validated, abs=1e-6, rel=0)
        assert (metrics.learning_rate, metrics.penalty) == (ours["learning_rate"], 0.0)
    assert epochs[0].train_loss - epochs[1].train_loss > 1e-3, "it did learn"
