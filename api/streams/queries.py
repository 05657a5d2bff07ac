"""What has happened to jobs, read from a position on and in one snapshot."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from heapq import merge
from itertools import islice
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import ColumnElement, Row, Select, case, func, select, true, tuple_
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.ext.asyncio import AsyncSession

from api.jobs.schemas import EpochView, LogEntry, TransitionView
from api.streams.events import Event, Kind
from api.streams.position import MOST_EPOCHS, Position
from api.streams.schemas import EndView
from models.job import FINAL, Job, Status
from models.records import Epoch, JobResult, LogChunk, Transition

_DIAGNOSIS = JobResult.body["diagnosis"]

_Row = TypeVar("_Row", Transition, Epoch, LogChunk)


@dataclass(frozen=True)
class Standing:
    """Where a job's events end now."""

    job_id: UUID
    owner: UUID
    position: Position
    began_at: datetime  # when it was submitted, or last tried again by a person
    beginning: Position  # where they stood who had seen all that was before


@dataclass(frozen=True)
class _Span:
    """What is asked for of a job: so many rows of each source, after one position and up to another."""

    job_id: UUID
    start: Position
    upto: Position | None
    limit: int

    def query(self, source: type[_Row], place: Any, place_at: Callable[[Position], Any]) -> Select[_Row]:
        """Return the query of a source's rows, not in order yet; `place` is where a row stands among its source's."""
        query = select(source).where(source.job_id == self.job_id, place > place_at(self.start)).limit(self.limit)
        return query if self.upto is None else query.where(place <= place_at(self.upto))


class _Happened(NamedTuple):
    """A row of one of the sources, and how it moves the position."""

    at: datetime
    kind: Kind
    view: BaseModel
    step: dict[str, int]


async def in_one_snapshot(session: AsyncSession, *, statement_seconds: float | None = None) -> None:
    """Let everything that this new session reads be of one moment, and each statement end within its own time."""
    await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
    if statement_seconds is not None:
        await session.execute(select(func.set_config("statement_timeout", f"{statement_seconds * 1_000:.0f}", True)))


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
    # The retry before which all attempts of the time had ended, and all that they had to tell was recorded.
    retry = (
        select(Transition.id, Transition.at, Transition.attempt)
        .where(Transition.job_id == Job.id, Transition.from_status.in_(FINAL))
        .order_by(Transition.id.desc())
        .limit(1)
        .lateral("retry")
    )
    logs_before = logs.where(LogChunk.attempt <= retry.c.attempt)
    query = select(
        Job.id,
        Job.user_id,
        func.coalesce(retry.c.at, Job.created_at).label("began_at"),
        *(moves.scalar_subquery().label("move"), epochs.scalar_subquery().label("epoch")),
        *(logs.scalar_subquery().label("log"), closing.label("closing")),
        *(retry.c.id.label("retry"), retry.c.attempt.label("attempt_before")),
        logs_before.scalar_subquery().label("log_before"),
    )
    return [_standing(row) for row in await session.execute(query.outerjoin(retry, true()).where(which))]


def _standing(row: Row[Any]) -> Standing:
    beginning = Position()
    if row.retry is not None:
        beginning = Position(row.retry - 1, row.attempt_before, MOST_EPOCHS, row.log_before or 0)
    attempt, epoch = row.epoch
    position = Position(row.move or 0, attempt, epoch, row.log or 0, row.closing)
    return Standing(row.id, row.user_id, position, row.began_at, beginning)


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
    span = _Span(job_id, start, upto, limit)
    sources = [
        await _moves(session, span),
        await _epochs(session, span, newest_attempt=job.attempt),
        await _logs(session, span),
    ]
    events: list[Event] = []
    position = start
    # The merge keeps the order of each source, even where the database's clock was set back.
    for row in islice(merge(*sources, key=lambda row: row.at), limit):
        position = replace(position, closing=0, **row.step)
        events.append(Event.of(row.kind, row.view.model_dump_json(ensure_ascii=True).encode(), position))
    if len(events) < limit and Status(job.status) in FINAL and await _is_newest(session, job_id, position):
        closing = await _closing(session, job)
        first, last = position.closing, len(closing) if upto is None else upto.closing
        for number, (kind, body) in enumerate(closing[first:last], start=first + 1):
            if body is not None:
                events.append(Event.of(kind, body, replace(position, closing=number)))
    return events


async def _is_newest(session: AsyncSession, job_id: UUID, position: Position) -> bool:
    """Tell whether no transition follows a position: what closes the job belongs to its newest end."""
    newest = select(func.max(Transition.id)).where(Transition.job_id == job_id)
    return position.transition == await session.scalar(newest)


async def _moves(session: AsyncSession, span: _Span) -> list[_Happened]:
    query = span.query(Transition, Transition.id, lambda position: position.transition)
    return [
        _Happened(row.at, Kind.STATUS, TransitionView.model_validate(row, from_attributes=True), {"transition": row.id})
        for row in await session.scalars(query.order_by(Transition.id))
    ]


async def _epochs(session: AsyncSession, span: _Span, *, newest_attempt: int) -> list[_Happened]:
    place = tuple_(Epoch.attempt, Epoch.epoch)
    query = span.query(Epoch, place, lambda position: (position.attempt, position.epoch))
    if span.start.attempt == newest_attempt:
        query = query.where(Epoch.epoch > span.start.epoch)  # says no more, but the key finds these at once
    return [
        _Happened(row.recorded_at, Kind.EPOCH, EpochView.of(row), {"attempt": row.attempt, "epoch": row.epoch})
        for row in await session.scalars(query.order_by(Epoch.attempt, Epoch.epoch))
    ]


async def _logs(session: AsyncSession, span: _Span) -> list[_Happened]:
    query = span.query(LogChunk, LogChunk.id, lambda position: position.log)
    return [
        _Happened(row.at, Kind.LOG, LogEntry.model_validate(row, from_attributes=True), {"log": row.id})
        for row in await session.scalars(query.order_by(LogChunk.id))
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
