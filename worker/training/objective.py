"""What is learned: the one place that knows a classification from a regression."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional

from models.datasets import Task


class Objective(ABC):
    """Losses and predictions from the float32 outputs (B, K) of a network and the targets (B,) of its batch."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over the batch that is reported: without smoothing, without a penalty."""

    def minimised(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return what is minimised of the data; `loss` is the one that is reported."""
        return loss

    @abstractmethod
    def summed_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum over the batch of what `loss` is the mean of."""

    @abstractmethod
    def predictions(self, outputs: Tensor) -> Tensor:
        """Return what the network says of each sample, (B,)."""

    @abstractmethod
    def probabilities(self, outputs: Tensor) -> Tensor | None:
        """Return how probable the network holds its predictions, (B,); None where it does not say."""

    @abstractmethod
    def hits(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Count the correct ones, on the device."""

    @abstractmethod
    def accuracy(self, hits: Tensor, samples: int) -> float | None:
        """Return the correct ones as a fraction; None where nothing can be correct."""


class Classification(Objective):
    """Cross entropy over logits; a prediction is the class of the highest, int64."""

    def __init__(self, label_smoothing: float = 0.0) -> None:
        """Smooth the labels in what is minimised, as torch's cross_entropy does."""
        self._label_smoothing = label_smoothing

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross entropy."""
        return functional.cross_entropy(outputs, targets)

    def minimised(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross entropy with smoothed labels."""
        if not self._label_smoothing:
            return loss
        return functional.cross_entropy(outputs, targets, label_smoothing=self._label_smoothing)

    def summed_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the summed cross entropy."""
        return functional.cross_entropy(outputs, targets, reduction="sum")

    def predictions(self, outputs: Tensor) -> Tensor:
        """Return the class of the highest logit."""
        return outputs.argmax(1)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Return the softmax of the highest logit."""
        return outputs.softmax(1).amax(1)

    def hits(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Count the samples whose class was predicted."""
        return (predictions == targets).sum()

    def accuracy(self, hits: Tensor, samples: int) -> float | None:
        """Return the fraction of samples whose class was predicted."""
        return int(hits) / samples


class Regression(Objective):
    """Mean squared error of the one output, on the scale of the targets; a prediction is that output, float32."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean squared error."""
        return functional.mse_loss(self.predictions(outputs), targets)

    def summed_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the summed squares of the errors in float64, as the scores of a result are measured."""
        return functional.mse_loss(self.predictions(outputs).double(), targets.double(), reduction="sum")

    def predictions(self, outputs: Tensor) -> Tensor:
        """Return the output of each sample."""
        return outputs.squeeze(1)

    def probabilities(self, outputs: Tensor) -> None:
        """Return None: the output is a number, not a distribution."""
        return

    def hits(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Count none: a number is not right or wrong."""
        return torch.zeros((), dtype=torch.int64, device=targets.device)

    def accuracy(self, hits: Tensor, samples: int) -> float | None:
        """Return None: an accuracy of a regression is no standard measure."""
        return None


def objective_of(task: Task, label_smoothing: float) -> Objective:
    """Return the objective of a task."""
    return Classification(label_smoothing) if task == "classification" else Regression()
