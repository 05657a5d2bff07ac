"""Epochs and curves of all replicas together."""

from collections.abc import Sequence

from models.across_seeds import figure_of
from models.replicas import ReplicaCurve, ReplicaCurves, ReplicaEpoch, ReplicaFigure
from models.result import EpochMetrics


def combine(epochs: Sequence[EpochMetrics]) -> EpochMetrics:
    """Return the epoch of the first replica with the figures of all beside it, and the times of all together.

    `epochs` are the same epoch of each replica, in the order of the seeds. An only one is returned as it is.
    """
    if len(epochs) == 1:
        return epochs[0]
    figures = {name: figure_of([getattr(epoch, name) for epoch in epochs]) for name in ReplicaEpoch.model_fields}
    return epochs[0].model_copy(
        update={
            "seconds": sum(epoch.seconds for epoch in epochs),
            "train_seconds": sum(epoch.train_seconds for epoch in epochs),
            "replicas": ReplicaEpoch.model_validate(figures),
        }
    )


def curves_of(history: Sequence[EpochMetrics]) -> ReplicaCurves:
    """Return the curves of combined epochs."""
    return ReplicaCurves.model_validate(
        {"epoch": [metrics.epoch for metrics in history]}
        | {name: _curve([getattr(metrics.replicas, name) for metrics in history]) for name in ReplicaEpoch.model_fields}
    )


def _curve(figures: Sequence[ReplicaFigure | None]) -> ReplicaCurve | None:
    there = [figure for figure in figures if figure is not None]
    if len(there) < len(figures):
        return None
    return ReplicaCurve(
        mean=[figure.mean for figure in there], standard_deviation=[figure.standard_deviation for figure in there]
    )
