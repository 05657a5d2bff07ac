"""The recorded numbers that a diagnosis rests on."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from models.datasets import Task
from models.result import Diagnosis, EpochMetrics
from worker.diagnosis.curves import Curve

Figure = Literal["train_loss", "train_accuracy", "validation_loss", "validation_accuracy"]


@dataclass(frozen=True)
class Splits:
    """One figure per split at the end, in eval mode on the whole split; None where there is none."""

    train: float | None = None
    validation: float | None = None
    test: float | None = None


class DeadUnits(NamedTuple):
    """How many of the `units` (channels or features) of one application of a layer put out zero for every sample."""

    place: str
    kind: str
    dead: int
    units: int


class SharedModule(NamedTuple):
    """A module that one pass applies more than once; `batch_norm` says whether there is batch norm in it."""

    place: str
    times: int
    batch_norm: bool = False


@dataclass(frozen=True)
class Evidence:
    """What was recorded of one training; what is left out is unknown, and no rule that needs it fires.

    `accuracy` is of a classification, `r2` of a regression; 1 is perfect in both. `train_classes` and `test_classes`
    count samples by class, `samples` by split ("train", "validation", "test"). `shared_samples` counts, per pair of
    splits ("train/test"), the samples of the second that also stand in the first. `weights_epoch` is the epoch whose
    weights the figures at the end were measured with.
    """

    epochs: Sequence[EpochMetrics] = ()
    task: Task = "classification"
    images: bool = True  # the inputs are, and can be augmented
    loss: Splits = Splits()
    accuracy: Splits = Splits()
    r2: Splits = Splits()
    train_classes: Mapping[str, int] = field(default_factory=dict)
    test_classes: Mapping[str, int] = field(default_factory=dict)
    validation: float | Literal["test"] | None = None
    samples: Mapping[str, int] = field(default_factory=dict)
    shared_samples: Mapping[str, int] = field(default_factory=dict)
    shared_modules: Sequence[SharedModule] = ()
    dead_units: Sequence[DeadUnits] = ()
    parameters_without_gradient: Sequence[str] = ()
    stopped_early: bool = False
    weights_epoch: int | None = None

    @property
    def score(self) -> Splits:
        """What the task is judged by: the accuracy, or R2."""
        return self.accuracy if self.task == "classification" else self.r2

    def curve(self, figure: Figure) -> Curve:
        """Return a figure by epoch, without epochs where it was not measured or is not finite."""
        return self.curves(figure)[0]

    def curves(self, *figures: Figure) -> list[Curve]:
        """Return figures by epoch, over the epochs in which all of them were measured and are finite.

        Epoch 0, the untrained network, is not among them: its training figures are measured in another way.
        """
        points: list[tuple[int, list[float]]] = []
        for metrics in sorted(self.epochs, key=lambda metrics: metrics.epoch):
            values = [getattr(metrics, figure) for figure in figures]
            if metrics.epoch > 0 and all(value is not None and math.isfinite(value) for value in values):
                points.append((metrics.epoch, values))
        epochs = tuple(epoch for epoch, _ in points)
        return [Curve(epochs, tuple(values[index] for _, values in points)) for index in range(len(figures))]


Rule = Callable[[Evidence], list[Diagnosis]]
