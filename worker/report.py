"""The result of a finished training, put together from what was measured."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from models.network import NetworkSummary
from models.result import (
    Curves,
    DatasetReport,
    Diagnosis,
    EpochMetrics,
    LatencyByBatch,
    LayerCounts,
    Parameters,
    PerSplit,
    Result,
    SplitCounts,
    Spread,
    Timing,
)
from models.spec import JobSpec
from worker.environment import describe_environment
from worker.training.loop import Evaluation
from worker.training.scores import classification_report, confusion_matrix


@dataclass(frozen=True)
class Measured:
    """What was measured once the last epoch was over; evaluations are in eval mode on the whole split."""

    train: Evaluation
    validation: Evaluation | None
    test: Evaluation
    penalty: float
    latency: LatencyByBatch
    setup_seconds: float
    evaluation_seconds: float
    trainable_parameters: int


def build_result(
    spec: JobSpec,
    history: Sequence[EpochMetrics],
    measured: Measured,
    test_labels: torch.Tensor,
    dataset: DatasetReport,
    device: torch.device,
    git_commit: str | None,
) -> Result:
    """Put the result together; queued and total seconds are left at zero, only the database knows them."""
    classes = spec.dataset.facts.classes
    matrix = confusion_matrix(test_labels, measured.test.predictions, len(classes))
    summary = spec.summary()
    assert spec.training.seed is not None, "a resolved spec has a seed"
    best, worst = _best_and_worst(history)
    return Result(
        timing=_timing(history, measured, dataset.splits["train"].samples),
        loss=_per_split("loss", measured),
        accuracy=_per_split("accuracy", measured),
        penalty=measured.penalty,
        best_epoch=best,
        worst_epoch=worst,
        curves=_curves(history),
        parameters=_parameters(summary, measured.trainable_parameters),
        macs_per_sample=summary.macs,
        flops_per_sample=2 * summary.macs,
        confusion_matrix=matrix,
        classification_report=classification_report(matrix, classes),
        environment=describe_environment(device, git_commit),
        dataset=dataset,
        seed=spec.training.seed,
        spec=spec.as_json(),
        diagnosis=diagnose(spec),
    )


def diagnose(spec: JobSpec) -> list[Diagnosis]:
    """Say aloud what makes the figures of this job mean something else than a reader expects."""
    if spec.dataset.validation == "test":
        message = (
            "The test split was used for validation: a best epoch picked by validation is picked on the test data, "
            "so its score is optimistic. Hold out a fraction of the training split instead."
        )
        return [Diagnosis(code="validated_on_test", level="warning", message=message)]
    if spec.dataset.validation == 0:
        message = "Nothing was held out for validation: best and worst epoch are by training accuracy."
        return [Diagnosis(code="not_validated", level="info", message=message)]
    return []


def count_samples(labels: np.ndarray, classes: Sequence[str]) -> SplitCounts:
    """Count the samples of a split, in all and by class; `labels` is (N,)."""
    counts = np.bincount(labels, minlength=len(classes))
    return SplitCounts(
        samples=len(labels), classes={name: int(count) for name, count in zip(classes, counts, strict=True)}
    )


def _best_and_worst(history: Sequence[EpochMetrics]) -> tuple[int, int]:
    """Return the epochs of highest and lowest validation accuracy (else training accuracy), the earliest of equals."""

    def accuracy(metrics: EpochMetrics) -> float:
        return metrics.train_accuracy if metrics.validation_accuracy is None else metrics.validation_accuracy

    return max(history, key=accuracy).epoch, min(history, key=accuracy).epoch


def _per_split(figure: str, measured: Measured) -> PerSplit:
    return PerSplit(
        train=getattr(measured.train, figure),
        validation=getattr(measured.validation, figure) if measured.validation else None,
        test=getattr(measured.test, figure),
    )


def _curves(history: Sequence[EpochMetrics]) -> Curves:
    return Curves.model_validate(
        {name: [getattr(metrics, name) for metrics in history] for name in Curves.model_fields}
    )


def _parameters(summary: NetworkSummary, trainable: int) -> Parameters:
    layers = [
        LayerCounts(
            layer=place.index,
            kind=place.kind,
            output_shape=list(place.output_shape),
            parameters=place.parameters,
            macs=place.macs,
        )
        for place in summary.layers
    ]
    return Parameters(total=summary.parameters, trainable=trainable, layers=layers)


def _timing(history: Sequence[EpochMetrics], measured: Measured, train_samples: int) -> Timing:
    seconds = [metrics.seconds for metrics in history]
    train_seconds = sum(metrics.train_seconds for metrics in history)
    return Timing(
        queued_seconds=0.0,
        setup_seconds=measured.setup_seconds,
        training_seconds=sum(seconds),
        evaluation_seconds=measured.evaluation_seconds,
        total_seconds=0.0,
        epoch_seconds=Spread(
            mean=statistics.fmean(seconds), median=statistics.median(seconds), min=min(seconds), max=max(seconds)
        ),
        samples_per_second=train_samples * len(history) / train_seconds,
        latency=measured.latency,
    )
