"""How workers are read from the database, each with the state that it is in now."""

from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, any_, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from api.access.caller import Caller
from api.workers.schemas import RunningJob, WorkerDetail, WorkerView
from models.errors import WorkerNotFound
from models.job import LIVE, Job
from models.records import Attempt
from models.scores import Scores
from models.user import User
from models.worker import Worker, WorkerState


async def lock_worker(session: AsyncSession, worker_id: UUID) -> Worker:
    """Return a worker, locked until the transaction ends; raise WorkerNotFound."""
    worker = await session.get(Worker, worker_id, with_for_update=True)
    if worker is None:
        raise _not_found(worker_id)
    return worker


async def page(
    session: AsyncSession, *, state: WorkerState | None, queue: str | None, after: str | None, limit: int
) -> list[WorkerView]:
    """Show at most `limit` workers in order of their names, after the name `after`."""
    query = _shown().order_by(Worker.name).limit(limit)
    if state is not None:
        query = query.where(Worker.state() == state.value)
    if queue is not None:
        query = query.where(any_(Worker.queues) == queue)
    if after is not None:
        query = query.where(Worker.name > after)
    return [WorkerView.of(*row) for row in await session.execute(query)]


async def detail(session: AsyncSession, caller: Caller, worker_id: UUID) -> WorkerDetail:
    """Show a worker with the jobs on it that the caller may read; raise WorkerNotFound."""
    found = (await session.execute(_shown().where(Worker.id == worker_id))).first()
    if found is None:
        raise _not_found(worker_id)
    view = WorkerView.of(*found)
    return WorkerDetail(**dict(view), jobs=await _running_jobs(session, caller, view.name))


async def _running_jobs(session: AsyncSession, caller: Caller, name: str) -> list[RunningJob]:
    rows = await session.execute(
        select(Job, User.name, Attempt.gpus, Attempt.started_at, func.coalesce(Scores.last_epoch, 0))
        .join(Attempt, _runs())
        .join(User, User.id == Job.user_id)
        .outerjoin(Scores, Scores.job_id == Job.id)
        .where(Attempt.worker == name, caller.visible())
        .order_by(Attempt.started_at)
    )
    return [
        RunningJob(
            id=job.id,
            name=job.name,
            user=user,
            status=job.status,
            attempt=job.attempt,
            gpus=gpus,
            epoch=epoch,
            epochs=job.epochs,
            started_at=started_at,
        )
        for job, user, gpus, started_at, epoch in rows
    ]


def _shown() -> Select[Any]:
    running = select(func.count()).select_from(Job).join(Attempt, _runs()).where(Attempt.worker == Worker.name)
    return select(Worker, Worker.state(), running.scalar_subquery())


def _runs() -> ColumnElement[bool]:
    return and_(Attempt.job_id == Job.id, Attempt.number == Job.attempt, Job.status.in_(LIVE))


def _not_found(worker_id: UUID) -> WorkerNotFound:
    return WorkerNotFound(f"There is no worker {worker_id}.")
