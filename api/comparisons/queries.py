"""How jobs are read to be compared: without their curves and matrices, and their epochs column by column."""

import math
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Integer, Row, cast, func, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.ext.asyncio import AsyncSession

from api.access.caller import Caller
from api.comparisons import rows
from api.comparisons.curves import shown_epochs
from api.comparisons.schemas import ComparedCurves
from models.errors import JobNotFound
from models.job import Job
from models.predictions import Predictions
from models.records import Epoch, JobResult
from models.scores import METRICS, Scores
from models.user import User


async def read(session: AsyncSession, caller: Caller, job_ids: Sequence[UUID]) -> list[rows.Row]:
    """Return the jobs in the order of their ids; raise JobNotFound naming the first that the caller may not read."""
    query = (
        select(
            Job.id,
            Job.name,
            Job.status,
            Job.spec,
            User.name.label("user"),
            JobResult.essentials,
            Scores.last_epoch,
            Scores.best_epoch,
            Predictions.samples,
            Predictions.samples_digest,
            # What Postgres would send of the array: the labels in their order.
            func.encode(func.sha256(func.array_send(Predictions.labels)), "hex").label("labels_digest"),
            Predictions.correct,
        )
        .join(User, User.id == Job.user_id)
        .outerjoin(JobResult, JobResult.job_id == Job.id)
        .outerjoin(Scores, Scores.job_id == Job.id)
        .outerjoin(Predictions, Predictions.job_id == Job.id)
        .where(Job.id.in_(job_ids), caller.visible())
    )
    found = {row.id: _row(row) for row in await session.execute(query)}
    for job_id in job_ids:
        if job_id not in found:
            raise JobNotFound(f"There is no job {job_id}.")
    return [found[job_id] for job_id in job_ids]


async def curves(session: AsyncSession, jobs: Sequence[rows.Row], max_points: int) -> ComparedCurves:
    """Return the curves of the jobs over common epochs, at most `max_points` of them."""
    lasts = {job.last_epoch or 0 for job in jobs}
    kept = {epoch for job in jobs for epoch in (job.last_epoch, job.best_epoch) if epoch is not None}
    asked = shown_epochs(lasts, kept, max_points)
    lists = [func.array_agg(aggregate_order_by(column, Epoch.epoch)) for column in _columns()]
    query = (
        select(Epoch.job_id, *lists)
        .where(Epoch.job_id.in_([job.id for job in jobs]), Epoch.epoch == func.any(cast(asked, ARRAY(Integer))))
        .group_by(Epoch.job_id)
    )
    columns = {job_id: columns for job_id, *columns in await session.execute(query)}
    epochs = sorted({epoch for found, *_ in columns.values() for epoch in found})
    by_metric = {
        metric: [_aligned(epochs, columns.get(job.id), place) for job in jobs]
        for place, metric in enumerate(METRICS, start=1)
    }
    return ComparedCurves(epochs=epochs, sampled=len(asked) <= max(lasts), **by_metric)


def _columns() -> list[Any]:
    return [Epoch.epoch, *(getattr(Epoch, metric) for metric in METRICS)]


def _aligned(epochs: Sequence[int], columns: Sequence[Any] | None, place: int) -> list[float | None]:
    if columns is None:
        return [None] * len(epochs)
    values = dict(zip(columns[0], columns[place], strict=True))
    return [_finite(values.get(epoch)) for epoch in epochs]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _row(found: Row[Any]) -> rows.Row:
    tested = None
    if found.correct is not None:
        correct = int.from_bytes(found.correct, "big")
        tested = rows.Evaluated(found.samples, found.samples_digest, found.labels_digest, correct)
    return rows.Row(
        id=found.id,
        name=found.name,
        status=found.status,
        user=found.user,
        spec=found.spec,
        essentials=found.essentials,
        last_epoch=found.last_epoch,
        best_epoch=found.best_epoch,
        tested=tested,
    )
