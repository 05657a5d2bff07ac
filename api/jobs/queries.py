"""How jobs are read from the database."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, String, case, cast, func, select, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from api.jobs.schemas import EpochView, JobView, LogEntry, MetricsView
from models.errors import JobNotFinished, JobNotFound, NoResult
from models.job import FINAL, Epoch, Job, JobResult, LogChunk, Status, Transition


async def lock_job(session: AsyncSession, job_id: UUID) -> Job:
    """Return the job's row, locked until the transaction ends; raise JobNotFound."""
    job = await session.get(Job, job_id, with_for_update=True)
    if job is None:
        raise JobNotFound(f"There is no job {job_id}.")
    return job


async def job_view(session: AsyncSession, job_id: UUID) -> JobView:
    """Show one job; raise JobNotFound."""
    job = await session.get(Job, job_id)
    if job is None:
        raise JobNotFound(f"There is no job {job_id}.")
    return (await _views(session, [job]))[0]


async def page(session: AsyncSession, *, status: Status | None, after: UUID | None, limit: int) -> list[JobView]:
    """Show at most `limit` jobs, newest first, older than `after`."""
    query = select(Job).order_by(Job.id.desc()).limit(limit)
    if status is not None:
        query = query.where(Job.status == status)
    if after is not None:
        query = query.where(Job.id < after)
    return await _views(session, (await session.scalars(query)).all())


async def metrics(session: AsyncSession, job_id: UUID, after: int) -> MetricsView:
    """Show the epochs after `after`; raise JobNotFound."""
    # The status is read first: a job seen as ended has all its epochs in the rows read after it.
    status = await session.scalar(select(Job.status).where(Job.id == job_id))
    if status is None:
        raise JobNotFound(f"There is no job {job_id}.")
    rows = await session.scalars(select(Epoch).where(Epoch.job_id == job_id, Epoch.epoch > after).order_by(Epoch.epoch))
    epochs = [EpochView.of(row) for row in rows]
    return MetricsView(
        job_id=job_id,
        status=Status(status),
        terminal=status in FINAL,
        epochs=epochs,
        next=epochs[-1].epoch if epochs else after,
    )


async def result_text(session: AsyncSession, job_id: UUID) -> str:
    """Return the result's JSON text; raise JobNotFound, JobNotFinished, or NoResult where the job ended without one."""
    body = await session.scalar(select(cast(JobResult.body, String)).where(JobResult.job_id == job_id))
    if body is not None:
        return body
    job = await session.get(Job, job_id)
    if job is None:
        raise JobNotFound(f"There is no job {job_id}.")
    if Status(job.status) not in FINAL:
        raise JobNotFinished(f"The job is {job.status}; its result is there when it has succeeded.")
    raise NoResult(f"The job ended as {job.status} and has no result: {job.message}")


async def log_entries(session: AsyncSession, job_id: UUID) -> list[LogEntry]:
    """Return what the job's runners printed, oldest first; raise JobNotFound."""
    if await session.scalar(select(Job.id).where(Job.id == job_id)) is None:
        raise JobNotFound(f"There is no job {job_id}.")
    rows = await session.scalars(select(LogChunk).where(LogChunk.job_id == job_id).order_by(LogChunk.id))
    return [LogEntry.model_validate(row, from_attributes=True) for row in rows]


async def _views(session: AsyncSession, jobs: Sequence[Job]) -> list[JobView]:
    ids = [job.id for job in jobs]
    transitions: dict[UUID, list[Transition]] = {job_id: [] for job_id in ids}
    moves = await session.scalars(select(Transition).where(Transition.job_id.in_(ids)).order_by(Transition.id))
    for move in moves:
        transitions[move.job_id].append(move)
    last_of = await _one_epoch_each(session, ids, true(), Epoch.epoch.desc())
    best_of = await _one_epoch_each(session, ids, Epoch.epoch > 0, *_best_first())
    return [JobView.of(job, transitions[job.id], last_of.get(job.id), best_of.get(job.id)) for job in jobs]


def _best_first() -> tuple[ColumnElement[Any], ...]:
    """Order epochs by accuracy, those of a regression by loss, on the validation split where there is one."""
    accuracy = func.coalesce(Epoch.validation_accuracy, Epoch.train_accuracy)
    loss = func.coalesce(Epoch.validation_loss, Epoch.train_loss)
    return accuracy.desc().nulls_last(), case((accuracy.is_(None), loss)).asc(), Epoch.epoch.asc()


async def _one_epoch_each(
    session: AsyncSession, job_ids: Sequence[UUID], wanted: ColumnElement[bool], *order: ColumnElement[Any]
) -> dict[UUID, Epoch]:
    """Return the first wanted epoch of each job in this order, without sorting all epochs of all jobs."""
    first = select(Epoch).where(Epoch.job_id == Job.id, wanted).order_by(*order).limit(1).lateral()
    epoch = aliased(Epoch, first)
    rows = await session.scalars(select(epoch).select_from(Job).join(first, true()).where(Job.id.in_(job_ids)))
    return {row.job_id: row for row in rows}
