"""The result of a finished training, put together from what was measured."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from models.dataset_spec import TableDataset
from models.network import LayerSummary, NetworkSummary
from models.result import (
    Curves,
    EarlyStop,
    EpochMetrics,
    LatencyByBatch,
    LayerCounts,
    Parameters,
    PerSplit,
    RegressionReport,
    RegressionScores,
    RegressionSplits,
    Result,
    Scale,
    Spread,
    Startup,
    Timing,
)
from models.spec import JobSpec
from worker.datasets import PreparedData
from worker.diagnosis import Evidence, SharedModule, Splits, diagnose
from worker.environment import describe_environment
from worker.report_replicas import report_replicas
from worker.training import memory
from worker.training.inspection import Inspection
from worker.training.loop import Evaluation
from worker.training.replicas import Replicas
from worker.training.scores import AS_LEARNED, classification_report, confusion_matrix, regression_scores
from worker.training.splits import Evaluations
from worker.training.state import TrainState


@dataclass(frozen=True)
class Measured:
    """What was measured once the last epoch was over: evaluations of each replica, all else of the first."""

    replicas: Sequence[Evaluations]
    penalty: float
    latency: LatencyByBatch
    inspection: Inspection
    startup: Startup
    evaluation_seconds: float


def build_result(
    spec: JobSpec, replicas: Replicas, measured: Measured, data: Sequence[PreparedData], git_commit: str | None
) -> Result:
    """Put the result of the first replica together, with what all say; `data` are those of each.

    Queued and total seconds are left at zero, only the database knows them.
    """
    assert spec.training.seed is not None, "a resolved spec has a seed"
    state, evaluations, described = replicas.first, measured.replicas[0], data[0]
    history = replicas.history
    trained = [metrics for metrics in history if metrics.epoch > 0]
    best, worst = _best_and_worst(trained)
    return Result(
        task=spec.dataset.task,
        timing=_timing(
            state.device, trained, measured, len(replicas.members) * described.report.splits["train"].samples
        ),
        loss=_per_split(evaluations, lambda evaluation: evaluation.loss),
        penalty=measured.penalty,
        best_epoch=best,
        worst_epoch=worst,
        weights_epoch=state.weights_epoch,
        early_stopping=_early_stop(spec, state),
        curves=_curves(history),
        replicas=report_replicas(spec, replicas, measured.replicas, data),
        parameters=_parameters(state),
        macs_per_sample=state.summary.macs,
        flops_per_sample=2 * state.summary.macs,
        environment=describe_environment(state.device, state.ranks.count, git_commit),
        dataset=described.report,
        seed=spec.training.seed,
        spec=spec.as_json(),
        diagnosis=diagnose(_evidence(spec, state, measured, described)),
        **_scores(spec, evaluations, described),
    )


def _scores(spec: JobSpec, measured: Evaluations, data: PreparedData) -> dict[str, Any]:
    """Return what a classification, or a regression, is judged by; the other's figures are null."""
    if spec.dataset.task == "regression":
        report = _regression_report(spec, measured, data)
        return {"accuracy": None, "confusion_matrix": None, "classification_report": None, "regression": report}
    classes = spec.dataset.class_names
    matrix = confusion_matrix(measured.test.targets, measured.test.predictions, len(classes))
    return {
        "accuracy": _per_split(measured, lambda evaluation: evaluation.accuracy),
        "confusion_matrix": matrix,
        "classification_report": classification_report(matrix, classes),
        "regression": None,
    }


def _regression_report(spec: JobSpec, measured: Evaluations, data: PreparedData) -> RegressionReport:
    assert isinstance(spec.dataset, TableDataset), "only tables have numbers to predict"
    assert data.target_scale is not None, "a regression's target has a scale"

    def splits(scale: Scale) -> RegressionSplits:
        validation = _errors(measured.validation, scale) if measured.validation else None
        return RegressionSplits(
            train=_errors(measured.train, scale), validation=validation, test=_errors(measured.test, scale)
        )

    return RegressionReport(target=spec.dataset.target, scaled=splits(AS_LEARNED), original=splits(data.target_scale))


def _errors(evaluation: Evaluation, scale: Scale = AS_LEARNED) -> RegressionScores:
    return regression_scores(evaluation.targets, evaluation.predictions, scale)


def _evidence(spec: JobSpec, state: TrainState, measured: Measured, data: PreparedData) -> Evidence:
    first = measured.replicas[0]

    def per_split(figure: Callable[[Evaluation], float | None]) -> Splits:
        validation = figure(first.validation) if first.validation else None
        return Splits(figure(first.train), validation, figure(first.test))

    is_regression = spec.dataset.task == "regression"
    splits = data.report.splits
    return Evidence(
        epochs=state.history,
        task=spec.dataset.task,
        images=not isinstance(spec.dataset, TableDataset),
        loss=per_split(lambda evaluation: evaluation.loss),
        accuracy=per_split(lambda evaluation: evaluation.accuracy),
        r2=per_split(lambda evaluation: _errors(evaluation).r2) if is_regression else Splits(),
        train_classes=splits["train"].classes,
        test_classes=splits["test"].classes,
        validation=spec.dataset.validation,
        samples={name: split.samples for name, split in splits.items()},
        shared_samples=data.report.shared_samples,
        shared_modules=_shared_modules(state.summary),
        dead_units=measured.inspection.dead_units,
        parameters_without_gradient=measured.inspection.parameters_without_gradient,
        stopped_early=state.stopped_early,
        weights_epoch=state.weights_epoch,
    )


def _shared_modules(summary: NetworkSummary) -> list[SharedModule]:
    norms = [place.loc for place in summary.places() if place.kind.startswith("batch_norm")]
    return [
        SharedModule(shared, times, batch_norm=any(f"{norm}.".startswith(f"{shared}.") for norm in norms))
        for shared, times in summary.shared.items()
    ]


def _best_and_worst(history: Sequence[EpochMetrics]) -> tuple[int, int]:
    """Return the best and the worst epoch, the earliest of equals, on the validation split where there is one.

    By accuracy; those of a regression by loss.
    """

    def goodness(metrics: EpochMetrics) -> float:
        accuracy = metrics.train_accuracy if metrics.validation_accuracy is None else metrics.validation_accuracy
        loss = metrics.train_loss if metrics.validation_loss is None else metrics.validation_loss
        return -loss if accuracy is None else accuracy

    return max(history, key=goodness).epoch, min(history, key=goodness).epoch


def _early_stop(spec: JobSpec, state: TrainState) -> EarlyStop | None:
    if spec.training.early_stopping is None or state.best is None:
        return None
    return EarlyStop(
        metric=spec.training.early_stopping.metric,
        best_epoch=state.best.epoch,
        best_value=state.best.value,
        stopped=state.stopped_early,
    )


def _per_split(measured: Evaluations, figure: Callable[[Evaluation], float | None]) -> PerSplit:
    return PerSplit.model_validate(
        {
            "train": figure(measured.train),
            "validation": figure(measured.validation) if measured.validation else None,
            "test": figure(measured.test),
        }
    )


def _curves(history: Sequence[EpochMetrics]) -> Curves:
    return Curves.model_validate(
        {name: [getattr(metrics, name) for metrics in history] for name in Curves.model_fields}
    )


def _parameters(state: TrainState) -> Parameters:
    return Parameters(
        total=state.summary.parameters,
        trainable=sum(p.numel() for p in state.network.parameters() if p.requires_grad),
        layers=[_layer_counts(place) for place in state.summary.layers],
    )


def _layer_counts(place: LayerSummary) -> LayerCounts:
    return LayerCounts(
        layer=place.index,
        kind=place.kind,
        output_shape=list(place.output_shape),
        parameters=place.parameters,
        macs=place.macs,
        applied=place.applied,
        layers=[_layer_counts(inner) for inner in place.layers],
    )


def _timing(device: torch.device, history: Sequence[EpochMetrics], measured: Measured, train_samples: int) -> Timing:
    """Return the times of all replicas together, which see `train_samples` in an epoch."""
    seconds = [metrics.seconds for metrics in history]
    train_seconds = sum(metrics.train_seconds for metrics in history)
    return Timing(
        queued_seconds=0.0,
        setup_seconds=sum(measured.startup.model_dump().values()),
        startup=measured.startup,
        training_seconds=sum(seconds),
        evaluation_seconds=measured.evaluation_seconds,
        total_seconds=0.0,
        epoch_seconds=Spread(
            mean=statistics.fmean(seconds), median=statistics.median(seconds), min=min(seconds), max=max(seconds)
        ),
        samples_per_second=train_samples * len(history) / train_seconds,
        latency=measured.latency,
        peak_memory_bytes=memory.peak_bytes(),
        peak_gpu_memory_bytes=memory.peak_gpu_bytes(device),
    )
