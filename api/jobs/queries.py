"""How jobs are read from the database."""

import json
from collections.abc import Sequence
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import Select, String, and_, cast, func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from api.access.caller import Caller
from api.jobs import fields, references
from api.jobs.listing import Listing
from api.jobs.schemas import JobView, LogEntry
from api.jobs.texts import JobTexts
from api.paging import cut
from api.queue.lab import WAITING
from api.queue.line import Line
from api.statements import Connection, connection_of
from models.errors import JobNotFound
from models.job import Dependency, Job, Status
from models.records import Attempt, JobResult, LogChunk
from models.scores import Scores
from models.sweep import Sweep
from models.user import User

_SPEC = "SELECT user_id, spec FROM jobs WHERE id = %(id)s AND deleted_at IS NULL"


async def lock_job(session: AsyncSession, caller: Caller, job_id: UUID) -> Job:
    """Return a job that the caller may change, locked until the transaction ends; raise JobNotFound or NotYours."""
    job = await session.get(Job, job_id, with_for_update=True)
    if job is None or job.deleted_at is not None or not caller.may_read(job.user_id):
        raise _not_found(job_id)
    caller.check_may_change(job.user_id)
    return job


async def lock_for_retry(
    session: AsyncSession, caller: Caller, job_id: UUID
) -> tuple[Job, Sweep | None, Sequence[UUID]]:
    """Return a job that the caller may change, its sweep, and the jobs that it would wait for, all locked.

    A sweep is locked before its jobs, and a job before those that depend on it: as everywhere. Raises JobNotFound,
    NotYours, or DependencyFailed.
    """
    seen = await require_visible(session, caller, job_id)
    caller.check_may_change(seen.user_id)
    sweep = await session.get(Sweep, seen.sweep_id, with_for_update=True) if seen.sweep_id else None
    unmet = await references.unmet_of_stored(await connection_of(session), seen.spec)
    return await lock_job(session, caller, job_id), sweep, unmet


async def unmet(session: AsyncSession, job: Job) -> Sequence[UUID]:
    """Return the jobs that a locked job waits for; what changes them waits for the lock."""
    needed = select(Dependency.needs_id).join(Job, Job.id == Dependency.needs_id)
    query = needed.where(Dependency.job_id == job.id, Job.status != Status.SUCCEEDED).order_by(Dependency.needs_id)
    return (await session.scalars(query)).all()


async def spec(connection: Connection, caller: Caller, job_id: UUID) -> dict[str, Any]:
    """Return the spec of a job that the caller may read; raise JobNotFound."""
    found = await connection.execute(_SPEC, {"id": job_id})
    row = await found.fetchone()
    if row is None or not caller.may_read(row[0]):
        raise _not_found(job_id)
    whole: dict[str, Any] = row[1]
    return whole


async def require_visible(session: AsyncSession, caller: Caller, job_id: UUID) -> Job:
    """Return a job that the caller may read; raise JobNotFound."""
    job = await session.get(Job, job_id)
    if job is None or job.deleted_at is not None or not caller.may_read(job.user_id):
        raise _not_found(job_id)
    return job


async def job_view(session: AsyncSession, caller: Caller, job_id: UUID) -> JobView:
    """Show one job; raise JobNotFound."""
    return JobView.model_validate_json(await _job_text(session, caller, job_id))


async def _job_text(session: AsyncSession, caller: Caller, job_id: UUID) -> str:
    """Return the JSON text of a JobView; raise JobNotFound."""
    found = await session.execute(fields.shown().where(Job.id == job_id, caller.visible()))
    row = found.first()
    if row is None:
        raise _not_found(job_id)
    return str(row.text)


async def whole_job_text(sessions: async_sessionmaker[AsyncSession], line: Line, caller: Caller, job_id: UUID) -> str:
    """Return the JSON text of a JobView with the job's place in the line; raise JobNotFound."""
    query = _with_its_queue().where(Job.id == job_id, caller.visible())
    async with sessions() as session:  # of its own: none is held while the line is worked out
        row = (await session.execute(query)).first()
    if row is None:
        raise _not_found(job_id)
    queue = await line.of_job(Status(row.status), row)
    return f'{row.text[:-1]},"queue":{queue.model_dump_json()}}}'


@cache
def _with_its_queue() -> Select[Any]:
    text = fields.shown(fields.BUT_QUEUE)
    its_attempt = and_(Attempt.job_id == Job.id, Attempt.number == Job.attempt)
    columns = (Job.status, *WAITING, Attempt.started_at.label("began"), func.now().label("now"))
    return text.outerjoin(Attempt, its_attempt).with_only_columns(text.selected_columns.text, *columns)


async def page_text(session: AsyncSession, caller: Caller, listing: Listing, texts: JobTexts) -> str:
    """Return the JSON text of a JobPage; Postgres writes those jobs anew of which `texts` has no such version."""
    order = listing.order
    query = (
        select(fields.ID, fields.VERSION, order.value.label("value"))
        .select_from(Job)
        .join(User, User.id == Job.user_id)
        .outerjoin(Scores, Scores.job_id == Job.id)
        .where(caller.visible(), *listing.conditions)
        .order_by(*order.by())
        .limit(listing.limit + 1)
    )
    jobs, last = cut((await session.execute(query)).all(), listing.limit)
    shown = texts.of((job.version for job in jobs), listing.fields)
    missing = [job.id for job in jobs if job.version not in shown]
    anew = dict[str, str]()
    if missing:
        for job in await session.execute(fields.shown(listing.fields).where(Job.id.in_(map(UUID, missing)))):
            anew[job.id] = job.text
            texts.keep(job.version, listing.fields, job.text)
    items = ",".join(shown.get(job.version) or anew[job.id] for job in jobs)
    following = order.cursor(last.value, last.id) if last is not None else None
    return f'{{"items":[{items}],"next":{json.dumps(following)}}}'


async def result_text(session: AsyncSession, caller: Caller, job_id: UUID) -> str:
    """Return the result's JSON text; raise JobNotFound, JobNotFinished, or NoResult where the job ended without one."""
    query = select(cast(JobResult.body, String)).join(Job, JobResult.job_id == Job.id)
    body = await session.scalar(query.where(Job.id == job_id, caller.visible()))
    if body is not None:
        return body
    raise (await require_visible(session, caller, job_id)).why_no_result()


async def log_entries(session: AsyncSession, caller: Caller, job_id: UUID) -> list[LogEntry]:
    """Return what the job's runners printed, oldest first; raise JobNotFound."""
    await require_visible(session, caller, job_id)
    rows = await session.scalars(select(LogChunk).where(LogChunk.job_id == job_id).order_by(LogChunk.id))
    return [LogEntry.model_validate(row, from_attributes=True) for row in rows]


def _not_found(job_id: UUID) -> JobNotFound:
    return JobNotFound(f"There is no job {job_id}.")
