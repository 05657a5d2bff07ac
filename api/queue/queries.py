"""How named queues are read from the database, paused and resumed in it; the line itself is in `line`."""

from collections import defaultdict
from collections.abc import Collection
from uuid import UUID

from sqlalchemy import ColumnElement, func, select, union, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from api.queue.schemas import QueueView
from models.job import LIVE, Job, Status
from models.named_queue import NamedQueue
from models.user import User
from models.worker import Worker, WorkerState

_IS_PAUSED = NamedQueue.paused_at.is_not(None)


async def page(session: AsyncSession, *, after: str | None, limit: int) -> list[QueueView]:
    """Show at most `limit` of the queues that are in use or paused, by name, after the name `after`."""
    waits_or_runs = Job.status.in_([Status.QUEUED, *LIVE])
    names = union(
        select(Job.queue.label("name")).where(waits_or_runs),
        select(NamedQueue.name).where(_IS_PAUSED),
        select(func.unnest(Worker.queues)).where(_takes_jobs()),
    ).subquery()
    query = select(names.c.name).order_by(names.c.name).limit(limit)
    if after is not None:
        query = query.where(names.c.name > after)
    return await _views(session, (await session.scalars(query)).all())


async def view(session: AsyncSession, name: str) -> QueueView:
    """Show a queue; in one that nobody uses there is nothing."""
    (shown,) = await _views(session, [name])
    return shown


async def pause(session: AsyncSession, name: str, *, by: UUID) -> bool:
    """Let nothing be claimed from a queue, whether or not anybody uses it; return whether that changed anything."""
    paused = {"paused_at": func.clock_timestamp(), "paused_by": by}
    new = insert(NamedQueue).values(name=name, **paused)
    again = new.on_conflict_do_update(index_elements=["name"], set_=paused, where=NamedQueue.paused_at.is_(None))
    return await session.scalar(again.returning(NamedQueue.name)) is not None


async def resume(session: AsyncSession, name: str) -> bool:
    """Let jobs be claimed from a queue again; return whether that changed anything."""
    its_row = update(NamedQueue).where(NamedQueue.name == name, _IS_PAUSED)
    return await session.scalar(its_row.values(paused_at=None, paused_by=None).returning(NamedQueue.name)) is not None


async def _views(session: AsyncSession, names: Collection[str]) -> list[QueueView]:
    """Show these queues, in this order."""
    counts = select(Job.queue, Job.status == Status.QUEUED, func.count()).group_by(Job.queue, Job.status)
    counts = counts.where(Job.queue.in_(names), Job.status.in_([Status.QUEUED, *LIVE]))
    jobs: dict[tuple[str, bool], int] = defaultdict(int)
    for queue, waits, count in await session.execute(counts):
        jobs[queue, waits] += count
    pauses = select(NamedQueue.name, NamedQueue.paused_at, User.name.label("by"))
    pauses = pauses.join(User, User.id == NamedQueue.paused_by).where(NamedQueue.name.in_(names))
    paused = {row.name: row for row in await session.execute(pauses)}
    serving = select(Worker.name, Worker.queues).where(_takes_jobs()).order_by(Worker.name)
    workers = (await session.execute(serving)).tuples().all()
    return [
        QueueView(
            name=name,
            waiting=jobs[name, True],
            running=jobs[name, False],
            paused_at=paused[name].paused_at if name in paused else None,
            paused_by=paused[name].by if name in paused else None,
            workers=[worker for worker, served in workers if name in served],
        )
        for name in names
    ]


def _takes_jobs() -> ColumnElement[bool]:
    return Worker.state() == WorkerState.ONLINE
