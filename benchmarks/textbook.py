"""The loop of a textbook: torchvision's data set and transforms, a DataLoader, and `.item()` in every step."""

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from benchmarks.images import MEAN, STD, Images
from benchmarks.rows import SEED
from benchmarks.setting import Setting, Timed
from worker.networks import build_network
from worker.training.precision import prepare_precision

_ONE_EPOCH = 1
_NO_WEIGHTS = Path()

Batch = tuple[Tensor, Tensor]


class Cifar10(datasets.CIFAR10):
    """torchvision's CIFAR-10, which holds decoded images in memory and transforms them one by one."""

    def __init__(self, images: Images, samples: int) -> None:
        """Take over the first `samples` images in place of reading the published files."""
        pixels, labels = images.load(samples)
        self.data = np.ascontiguousarray(np.moveaxis(pixels, 1, 3))
        self.targets = labels.tolist()
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
        self.target_transform = None


def textbook(setting: Setting, workers: int) -> Timed:
    """Time the loop over `slow_steps` steps, with so many processes that load images."""
    network, optimizer = student_network(setting)
    batches = _without_end(student_loader(setting, workers))
    train(network, optimizer, islice(batches, setting.row.warm_up_steps), setting.device)
    return train(network, optimizer, islice(batches, setting.row.slow_steps), setting.device)


def train(network: nn.Module, optimizer: SGD, batches: Iterable[Batch], device: str) -> Timed:
    """Train as a textbook shows it, one step per batch."""
    network.train()
    losses, correct, total = [], 0, 0
    started = time.perf_counter()
    for images, labels in batches:
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        outputs = network(images)
        loss = functional.cross_entropy(outputs, labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        correct += (outputs.argmax(1) == labels).sum().item()
        total += len(labels)
    return Timed(total, started, time.perf_counter(), losses)


def student_network(setting: Setting) -> tuple[nn.Module, SGD]:
    """Return the row's network as it is built, with the weights that ours begins with, and its optimiser."""
    spec = setting.row.spec(_ONE_EPOCH)
    prepare_precision(spec.training)
    torch.manual_seed(SEED)
    network, _ = build_network(spec.network, spec.dataset.input_shape, spec.dataset.outputs, _NO_WEIGHTS)
    network = network.to(setting.device)
    return network, SGD(network.parameters(), lr=spec.training.optimizer.learning_rate)


def student_loader(setting: Setting, workers: int, order: Sequence[int] | None = None) -> DataLoader[Batch]:
    """Return the DataLoader over the row's images, shuffled, or in an `order` of one's own."""
    return DataLoader(
        Cifar10(setting.images, setting.row.images if order is None else len(order)),
        batch_size=setting.row.batch_size,
        shuffle=order is None,
        sampler=order,
        num_workers=workers,
    )


def _without_end(loader: DataLoader[Batch]) -> Iterator[Batch]:
    while True:
        yield from loader
