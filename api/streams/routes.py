"""The routes of streams: the events of one job, and of all jobs that a caller may see."""

import re
from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import JSONResponse, Response

from api.access.caller import Caller, ReaderDep, caller_now
from api.codes import answers
from api.jobs.filters import bad_query, quoted
from api.jobs.queries import require_visible
from api.jobs.routes import JobId
from api.problems import ProblemError
from api.query_names import takes
from api.services import ServicesDep
from api.streams.events import Kind
from api.streams.examples import OF_ALL, OF_JOB
from api.streams.failures import DATABASE_AWAY
from api.streams.position import Position
from api.streams.readers import JobReader, LabReader, job_reader, lab_reader, unknown_event
from api.streams.response import EventStream
from api.streams.schemas import AnyJobsEvent, JobEvent
from api.strict_json import StrictRoute
from models.user import Scope

_CHOICES = tuple(kind.value for kind in Kind if kind is not Kind.RESET)
_OF_JOB = frozenset(Kind) - {Kind.RESET}
_OF_LAB = frozenset({Kind.STATUS, Kind.EPOCH, Kind.END})
_LAB_ID = re.compile(r"([0-9a-f]{16})-([0-9]{1,15})")

router = APIRouter(
    tags=["streams"],
    route_class=StrictRoute,
    responses=answers("invalid_event_id"),
    dependencies=[takes("events", "last_event_id")],
)


class _DescribedStream(JSONResponse):
    """Stands for `EventStream` in the description, which shows the schema of JSON alone: here that of each event."""

    media_type = EventStream.media_type


def _last_event_id(
    last_event_id: Annotated[str | None, Header(max_length=100, description="Go on after this event.")] = None,
    in_query: Annotated[
        str | None,
        Query(
            alias="last_event_id", max_length=100, description="The same, for who cannot send the header, which wins."
        ),
    ] = None,
) -> str | None:
    # A browser that comes again sends the header, and the query that it first came with.
    return last_event_id or in_query or None


def _kinds(
    events: Annotated[
        str | None, Query(max_length=100, description=f"Only these, separated by commas: {', '.join(_CHOICES)}.")
    ] = None,
) -> frozenset[Kind] | None:
    if events is None:
        return None
    named = events.split(",")
    if unknown := [name for name in named if name not in _CHOICES]:
        message = f"There is no event {quoted(unknown[0])!r}, only {', '.join(_CHOICES)}"
        raise bad_query("events", message, "unknown_event")
    return frozenset(map(Kind, named))


LastEventId = Annotated[str | None, Depends(_last_event_id)]
Kinds = Annotated[frozenset[Kind] | None, Depends(_kinds)]


async def _job_reader(
    job_id: JobId, caller: ReaderDep, services: ServicesDep, last_event_id: LastEventId, kinds: Kinds
) -> AsyncIterator[tuple[JobReader, UUID]]:
    """Give what reads the job's events, and the job's owner."""
    position = Position() if last_event_id is None else Position.parse(last_event_id)
    if position is None:
        raise unknown_event()
    async with services.sessions() as session:
        owner = (await require_visible(session, caller, job_id)).user_id
    async with job_reader(services, job_id, position, kinds or _OF_JOB) as reader:
        yield reader, owner


async def _lab_reader(
    caller: ReaderDep, services: ServicesDep, last_event_id: LastEventId, kinds: Kinds
) -> AsyncIterator[LabReader]:
    match = None if last_event_id is None else _LAB_ID.fullmatch(last_event_id)
    if last_event_id is not None and match is None:
        raise unknown_event()
    place = (match[1], int(match[2])) if match else None
    async with lab_reader(services, caller, place, kinds or _OF_LAB) as reader:
        yield reader


@router.get(
    "/jobs/{job_id}/stream",
    response_class=_DescribedStream,
    response_model=JobEvent,
    responses={
        200: {"content": {EventStream.media_type: {"example": OF_JOB}}},
        204: {"description": "The job has ended, and `Last-Event-ID` is its last event: there is nothing to come."},
        **answers("job_not_found", "invalid_event_id"),
    },
)
async def stream_job(request: Request, followed: Annotated[tuple[JobReader, UUID], Depends(_job_reader)]) -> Response:
    """Send what happens to a job as server-sent events: all of it from the beginning, or after `Last-Event-ID`.

    The data of `status`, `epoch` and `log` are those of the job's transitions, metrics and logs, `diagnosis` is a
    finding of the result, and `end`, which always comes and is the last, is the final status. Nothing is left out or
    sent twice, whichever process answers; but an epoch comes again when a later attempt has recorded it again, so keep
    a table by its number. Of a very long log the oldest part is not kept.
    """
    reader, owner = followed
    if reader.has_all:
        return Response(status_code=204)  # a browser that got the end and came again stops here

    async def may_go_on() -> bool:
        caller = await _reader_now(request)
        return caller is not None and caller.may_read(owner)

    return EventStream(reader, may_go_on)


@router.get(
    "/stream",
    response_class=_DescribedStream,
    response_model=AnyJobsEvent,
    responses={200: {"content": {EventStream.media_type: {"example": OF_ALL}}}},
)
async def stream_jobs(request: Request, reader: Annotated[LabReader, Depends(_lab_reader)]) -> Response:
    """Send what happens from now on to any job that you may see; each event names its `job`.

    Without `events` these are `status`, `epoch` and `end`. After `Last-Event-ID` it goes on where it was, if this
    process still knows that place; if not, `reset` says that events are missing: read `/jobs` again.
    """

    async def may_go_on() -> bool:
        caller = await _reader_now(request)
        reader.caller = caller or reader.caller
        return caller is not None

    return EventStream(reader, may_go_on)


async def _reader_now(request: Request) -> Caller | None:
    """Return who reads this stream, as of now; None where they may not any more."""
    caller: Caller
    try:
        caller = await caller_now(request)
    except ProblemError:
        return None
    except DATABASE_AWAY:
        caller = request.state.caller  # nobody can have revoked anything meanwhile
    return caller if Scope.READ in caller.scopes else None
