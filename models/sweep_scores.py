"""What the jobs of a sweep have reached, as statements that API and scheduler share."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Float, Integer, Select, cast, func, literal, null, select
from sqlalchemy.dialects.postgresql import aggregate_order_by

from models.job import Job
from models.records import Epoch, JobResult
from models.sweep_spec import Objective

_INFINITY = literal(float("inf"), Float)


def best_values(sweep_id: UUID, objective: Objective, *, maximizes: bool) -> Select[UUID, int | None, float]:
    """Select (job, epoch, value) for each job of the sweep that has a finite value of the objective.

    It is that of the best trained epoch, the earliest of equals; of a `test_*` objective, which is measured once, that
    of the result, without an epoch.
    """
    if objective.startswith("test_"):
        value = _of_result(objective)
        statement = select(JobResult.job_id, cast(null(), Integer), value).join(Job, Job.id == JobResult.job_id)
        return statement.where(Job.sweep_id == sweep_id, _is_finite(value))
    value = _of_epoch(objective)
    best_first = value.desc() if maximizes else value.asc()
    return (
        select(Epoch.job_id, Epoch.epoch, value)
        .distinct(Epoch.job_id)
        .join(Job, Job.id == Epoch.job_id)
        .where(Job.sweep_id == sweep_id, Epoch.epoch > 0, _is_finite(value))
        .order_by(Epoch.job_id, best_first, Epoch.epoch)
    )


def curves(sweep_id: UUID, objective: Objective) -> Select[UUID, Sequence[int], Sequence[float], Sequence[datetime]]:
    """Select for each job its trained epochs with a finite value, in order, their values and when they were recorded.

    As arrays, a row per job: a large sweep has some 300,000 epochs.
    """
    value = _of_epoch(objective)
    epochs: ColumnElement[Sequence[int]] = _in_order(Epoch.epoch.expression)
    values: ColumnElement[Sequence[float]] = _in_order(value)
    recorded: ColumnElement[Sequence[datetime]] = _in_order(Epoch.recorded_at.expression)
    return (
        select(Epoch.job_id, epochs, values, recorded)
        .join(Job, Job.id == Epoch.job_id)
        .where(Job.sweep_id == sweep_id, Epoch.epoch > 0, _is_finite(value))
        .group_by(Epoch.job_id)
    )


def _of_epoch(objective: Objective) -> ColumnElement[float]:
    """Return an epoch's value of an objective that is measured in each; of a job with replicas it is their mean."""
    return func.coalesce(Epoch.replicas[(objective, "mean")].as_float(), getattr(Epoch, objective))


def _of_result(objective: Objective) -> ColumnElement[float]:
    figure = objective.removeprefix("test_")
    mean = JobResult.body[("replicas", figure, "test", "mean")].as_float()
    return func.coalesce(mean, JobResult.body[(figure, "test")].as_float())


def _in_order(column: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.array_agg(aggregate_order_by(column, Epoch.epoch))


def _is_finite(value: ColumnElement[float]) -> ColumnElement[bool]:
    # Postgres ranks what is not a number above infinity.
    return (value > -_INFINITY) & (value < _INFINITY)
