"""What has happened to jobs, read from a position on and in one snapshot."""

import json
from dataclasses import dataclass, replace
from datetime import datetime
from heapq import merge
from itertools import islice
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import ColumnElement, case, func, select, tuple_
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.ext.asyncio import AsyncSession

from api.jobs.schemas import EpochView, LogEntry, TransitionView
from api.streams.events import Event, Kind
from api.streams.position import Position
from api.streams.schemas import EndView
from models.job import FINAL, Epoch, Job, JobResult, LogChunk, Status, Transition

_DIAGNOSIS = JobResult.body["diagnosis"]


@dataclass(frozen=True)
class Standing:
    """Where a job's events end now."""

    job_id: UUID
    owner: UUID
    created_at: datetime
    position: Position


class _Happened(NamedTuple):
    """A row of one of the sources, and how it moves the position."""

    at: datetime
    kind: Kind
    view: BaseModel
    step: dict[str, int]


async def in_one_snapshot(session: AsyncSession) -> None:
    """Let everything that this new session reads be of one moment."""
    await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})


async def database_time(session: AsyncSession) -> datetime:
    """Return the database's time."""
    now: datetime = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    return now


async def standings(session: AsyncSession, which: ColumnElement[bool]) -> list[Standing]:
    """Return where the events of each of these jobs end."""
    moves = select(func.max(Transition.id)).where(Transition.job_id == Job.id)
    # Arrays compare as pairs do.
    newest = func.coalesce(func.max(array([Epoch.attempt, Epoch.epoch])), array([0, 0]))
    epochs = select(newest).where(Epoch.job_id == Job.id)
    logs = select(func.max(LogChunk.id)).where(LogChunk.job_id == Job.id)
    # The length of what is no list would be an error, for all jobs.
    is_list = func.json_typeof(_DIAGNOSIS) == "array"
    findings = select(case((is_list, func.json_array_length(_DIAGNOSIS)), else_=0)).where(JobResult.job_id == Job.id)
    closing = case((Job.status.in_(FINAL), func.coalesce(findings.scalar_subquery(), 0) + 1), else_=0)
    sources = (moves.scalar_subquery(), epochs.scalar_subquery(), logs.scalar_subquery(), closing)
    rows = await session.execute(select(Job.id, Job.user_id, Job.created_at, *sources).where(which))
    return [
        Standing(job_id, owner, created_at, Position(move or 0, attempt, epoch, log or 0, closed))
        for job_id, owner, created_at, move, (attempt, epoch), log, closed in rows
    ]


async def events_after(
    session: AsyncSession, job_id: UUID, start: Position, *, upto: Position | None = None, limit: int
) -> list[Event]:
    """Return the next `limit` events of a job, and what closes them where they are the last; in the order of time.

    Each carries the position after it. With `upto` nothing is returned that this position does not cover. The session
    is to be one of `in_one_snapshot`, else an epoch could come after the status that ended it.
    """
    job = await session.get(Job, job_id)
    if job is None:
        return []
    sources = [
        await _moves(session, job_id, start, upto, limit),
        await _epochs(session, job_id, start, upto, limit, newest_attempt=job.attempt),
        await _logs(session, job_id, start, upto, limit),
    ]
    events: list[Event] = []
    position = start
    # The merge keeps the order of each source, even where the database's clock was set back.
    for row in islice(merge(*sources, key=lambda row: row.at), limit):
        position = replace(position, **row.step)
        events.append(Event.of(row.kind, row.view.model_dump_json(ensure_ascii=True).encode(), position))
    if len(events) < limit and Status(job.status) in FINAL:
        closing = await _closing(session, job)
        last = len(closing) if upto is None else upto.closing
        for number, (kind, body) in enumerate(closing[start.closing : last], start=start.closing + 1):
            if body is not None:
                events.append(Event.of(kind, body, replace(position, closing=number)))
    return events


async def _moves(
    session: AsyncSession, job_id: UUID, start: Position, upto: Position | None, limit: int
) -> list[_Happened]:
    query = select(Transition).where(Transition.job_id == job_id, Transition.id > start.transition)
    if upto is not None:
        query = query.where(Transition.id <= upto.transition)
    return [
        _Happened(row.at, Kind.STATUS, TransitionView.model_validate(row, from_attributes=True), {"transition": row.id})
        for row in await session.scalars(query.order_by(Transition.id).limit(limit))
    ]


async def _epochs(
    session: AsyncSession, job_id: UUID, start: Position, upto: Position | None, limit: int, *, newest_attempt: int
) -> list[_Happened]:
    place = tuple_(Epoch.attempt, Epoch.epoch)
    query = select(Epoch).where(Epoch.job_id == job_id, place > (start.attempt, start.epoch))
    if start.attempt == newest_attempt:
        query = query.where(Epoch.epoch > start.epoch)  # says no more, but the key finds these at once
    if upto is not None:
        query = query.where(place <= (upto.attempt, upto.epoch))
    return [
        _Happened(row.recorded_at, Kind.EPOCH, EpochView.of(row), {"attempt": row.attempt, "epoch": row.epoch})
        for row in await session.scalars(query.order_by(Epoch.attempt, Epoch.epoch).limit(limit))
    ]


async def _logs(
    session: AsyncSession, job_id: UUID, start: Position, upto: Position | None, limit: int
) -> list[_Happened]:
    query = select(LogChunk).where(LogChunk.job_id == job_id, LogChunk.id > start.log)
    if upto is not None:
        query = query.where(LogChunk.id <= upto.log)
    return [
        _Happened(row.at, Kind.LOG, LogEntry.model_validate(row, from_attributes=True), {"log": row.id})
        for row in await session.scalars(query.order_by(LogChunk.id).limit(limit))
    ]


async def _closing(session: AsyncSession, job: Job) -> list[tuple[Kind, bytes | None]]:
    """Return what follows the final status: each finding of the result, None for one that is malformed, and the end."""
    findings = await session.scalar(select(_DIAGNOSIS).where(JobResult.job_id == job.id))
    end = EndView(status=Status(job.status), reason=job.reason, message=job.message)
    return [
        *((Kind.DIAGNOSIS, _finding(finding)) for finding in (findings if isinstance(findings, list) else ())),
        (Kind.END, end.model_dump_json(ensure_ascii=True).encode()),
    ]


def _finding(stored: Any) -> bytes | None:
    return json.dumps(stored).encode() if isinstance(stored, dict) and stored else None
