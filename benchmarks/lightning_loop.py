"""The same training by PyTorch Lightning, with logging, checkpoints and progress turned off."""

import logging
import time
import warnings
from collections.abc import Iterable
from typing import Any

import lightning.pytorch as lightning
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.images import MEAN, STD
from benchmarks.setting import Setting, Timed
from benchmarks.textbook import Batch, student_loader, student_network

_LOADER_WORKERS = 0


def lightning_with_loader(setting: Setting) -> Timed:
    """Time Lightning over `slow_steps` steps with the textbook's loader, without further processes."""
    return _timed(setting, student_loader(setting, _LOADER_WORKERS))


def lightning_with_tensors(setting: Setting) -> Timed:
    """Time Lightning over `slow_steps` steps on a TensorDataset: all images normalised in memory beforehand."""
    pixels, labels = setting.images.load(setting.row.images)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (MEAN, STD))
    inputs = (torch.tensor(pixels).float().div_(255) - mean) / std
    data = TensorDataset(inputs, torch.tensor(labels))
    return _timed(setting, DataLoader(data, batch_size=setting.row.batch_size, shuffle=True))


def train(setting: Setting, batches: Iterable[Batch], steps: int, warm_up: int = 0) -> Timed:
    """Make `warm_up` steps and then `steps` that are timed; the losses are of all of them."""
    network, optimizer = student_network(setting)
    module, clock = _Module(network, optimizer), _Clock(warm_up)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice about workers and logging
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        trainer = lightning.Trainer(
            accelerator="gpu" if setting.device == "cuda" else "cpu",
            devices=1,
            max_epochs=-1,
            max_steps=warm_up + steps,
            callbacks=[clock],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, batches)
    return Timed(clock.images, clock.started, clock.ended, torch.stack(module.losses).tolist())


def _timed(setting: Setting, batches: Iterable[Batch]) -> Timed:
    return train(setting, batches, setting.row.slow_steps, setting.row.warm_up_steps)


class _Module(lightning.LightningModule):
    """The textbook's step, without its reads."""

    def __init__(self, network: nn.Module, optimizer: SGD) -> None:
        super().__init__()
        self.network, self._optimizer = network, optimizer
        self.losses: list[Tensor] = []

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Return the loss of a batch."""
        images, labels = batch
        loss = functional.cross_entropy(self.network(images), labels)
        self.losses.append(loss.detach())
        return loss

    def configure_optimizers(self) -> SGD:
        """Return the optimiser."""
        return self._optimizer


class _Clock(lightning.Callback):
    """Starts after the warm-up and stops after the last step."""

    def __init__(self, warm_up: int) -> None:
        self._warm_up = warm_up
        self.images, self.started, self.ended, self._steps = 0, 0.0, 0.0, 0

    def on_train_start(self, *_: Any) -> None:
        """Start where there is no warm-up."""
        self.started = _now()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Batch, _: int) -> None:
        """Count the batch, and look at the clock after the last one."""
        self._steps += 1
        if self._steps == self._warm_up:  # before the next batch is loaded, which counts
            self.started = _now()
        if self._steps > self._warm_up:
            self.images += len(batch[1])
        if self._steps == trainer.max_steps:
            self.ended = _now()


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
