"""The route of a job's curves: read, thinned, waited for, and not sent again to who has them."""

import asyncio
from contextlib import suppress
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import AfterValidator, BaseModel, Field
from pydantic_core import PydanticCustomError

from api.access.caller import Caller, ReaderDep, caller_now
from api.codes import Responses, answers
from api.jobs.routes import JobId
from api.metrics import negotiation, queries, representations
from api.metrics.answers import Body, Question
from api.metrics.downsampling import kept
from api.metrics.queries import NAMES, Standing
from api.metrics.schemas import MetricsView, Note
from api.query_names import described, read_query
from api.services import Services, services_of
from api.statements import Connection
from api.strict_json import StrictRoute
from models.errors import JobNotFound

router = APIRouter(
    tags=["metrics"],
    route_class=StrictRoute,
)

_MAX_WAIT_SECONDS = 30
MAX_POINTS = 10_000
_MAX_EPOCH = 2**31 - 1
_AT_ONCE = 65_536  # characters of text that are written in the event loop; more would hold up other requests
_A_NAME = f"({'|'.join(NAMES)})"


def _names(listed: str) -> str:
    unknown = [name for name in listed.split(",") if name not in NAMES]
    if unknown:
        context = {"name": unknown[0], "names": ", ".join(NAMES)}
        raise PydanticCustomError("unknown_metric", "There is no metric '{name}'; there are {names}", context)
    return listed


class _Asked(BaseModel):
    after: int = Field(-1, ge=-1, le=_MAX_EPOCH, description="Only epochs after this one")
    wait: float = Field(
        0, ge=0, le=_MAX_WAIT_SECONDS, allow_inf_nan=False, description="Seconds to wait for news, where there is none"
    )
    names: Annotated[str, AfterValidator(_names)] | None = Field(
        None,
        max_length=200,
        description=f"Only these metrics, with commas between: {', '.join(NAMES)}",
        json_schema_extra={"pattern": f"^{_A_NAME}(,{_A_NAME})*$"},
    )
    max_points: int | None = Field(
        None,
        ge=2,
        le=MAX_POINTS,
        description="Thin the curves to so many epochs (at least to 2, and 2 more for each metric): of equal parts "
        "the first, the last, and each metric's least and greatest",
    )


def _question(request: Request, job_id: UUID, asked: _Asked) -> Question:
    accept, accept_encoding = (", ".join(request.headers.getlist(name)) for name in ("accept", "accept-encoding"))
    names = NAMES if asked.names is None else asked.names.split(",")
    return Question(
        job_id=job_id,
        after=asked.after,
        names=tuple(name for name in NAMES if name in names),
        max_points=asked.max_points,
        media_type=negotiation.wanted_type(accept or "*/*"),
        gzip=negotiation.takes_gzip(accept_encoding),
    )


_IF_NONE_MATCH = {"name": "if-none-match", "in": "header", "required": False, "schema": {"type": "string"}}
_HEADERS: dict[str, Any] = {
    "ETag": {"description": "Of these bytes, strong", "schema": {"type": "string"}},
    "Trainyard-Status": {"description": "The job's status", "schema": {"type": "string"}},
    "Trainyard-Next": {"description": "The `after` of the following request", "schema": {"type": "integer"}},
}
_ANSWERS: Responses = {
    200: {
        "headers": _HEADERS
        | {
            "Trainyard-Notes": {
                "description": "The `notes`, where there are any, for formats that have no room for them",
                "schema": {"type": "string"},
            }
        },
        "content": {
            "application/x-ndjson": {"schema": {"type": "string", "description": "An EpochView a line"}},
            "text/csv": {"schema": {"type": "string", "description": "A header line, and a line an epoch"}},
        },
    },
    304: {"description": "Unchanged", "headers": _HEADERS},
    **answers("job_not_found", "not_acceptable"),
}


@router.get(
    "/jobs/{job_id}/metrics",
    response_model=MetricsView,
    responses=_ANSWERS,
    openapi_extra={"parameters": [*described(_Asked), _IF_NONE_MATCH]},
)
async def get_metrics(request: Request, job_id: JobId, caller: ReaderDep) -> Response:
    """Show the epochs after `after`; with `wait`, hold the answer up to that many seconds until there is news.

    Epoch 0, where there is one, is the untrained network: it comes after -1. The answer is JSON, CSV or NDJSON, as
    `Accept` says.
    """
    services, asked = services_of(request), read_query(request, _Asked)
    question = _question(request, job_id, asked)
    standing = await _standing_when_new(request, services, caller, question, asked.wait)
    tag = question.tag(standing)
    known_tags = request.headers.getlist("if-none-match")
    if known_tags and negotiation.is_among(tag, ", ".join(known_tags)):
        return Response(status_code=304, headers=_headers(question, standing, tag))
    body = services.answers.body(tag)
    if body is None:
        standing, body = await _composed(services, question, standing)
        tag = question.tag(standing)
    return Response(body.content, headers=_headers(question, standing, tag) | body.headers)


def _headers(question: Question, standing: Standing, tag: str) -> dict[str, str]:
    return {
        "ETag": tag,
        "Vary": "Accept, Accept-Encoding",
        "Trainyard-Status": standing.status.value,
        "Trainyard-Next": str(standing.next(question.after)),
    }


async def _standing_when_new(
    request: Request, services: Services, caller: Caller, question: Question, wait: float
) -> Standing:
    """Read until there is news or the time is up; no connection is held while waiting.

    After each wait it counts what the caller may do by then; raises ProblemError (401), or JobNotFound.
    """
    job_id, after, clock = question.job_id, question.after, asyncio.get_running_loop().time
    deadline = clock() + wait
    with services.news.of(job_id) as changed:
        first = standing = await _standing(services, caller, job_id)
        while not _is_news(standing, first, after) and not services.news.ending and clock() < deadline:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await changed.wait()
            changed.clear()  # before the read: what happens during it must wake us again
            standing = await _standing(services, await caller_now(request), job_id)
    return standing


def _is_news(standing: Standing, first: Standing, after: int) -> bool:
    return standing.has_epochs_after(after) or standing.terminal or standing.status != first.status


async def _standing(services: Services, caller: Caller, job_id: UUID) -> Standing:
    """Return where a job stands, from memory if that is for ever; raise JobNotFound, also where it may not be read."""
    standing = services.answers.settled(job_id)
    if standing is None:
        doubts = services.answers.doubts
        async with services.statements.connection() as connection:
            standing = await queries.standing(connection, job_id)
        services.answers.remember(standing, doubts)
    if not caller.may_read(standing.owner):
        raise JobNotFound(f"There is no job {job_id}.")
    return standing


async def _composed(services: Services, question: Question, standing: Standing) -> tuple[Standing, Body]:
    """Read and write an answer and keep it; where the job stood a moment ago, and where it stands in the answer."""
    thinned = question.max_points is not None
    async with services.statements.snapshot() if thinned else services.statements.connection() as connection:
        meanwhile = services.answers.body(question.tag(standing))  # made by another who was woken with this one
        if meanwhile is not None:
            return standing, meanwhile
        only, notes = await _thinned(connection, question) if thinned else (None, None)
        standing, lines = await queries.curves(connection, question.job_id, question.after, question.names, only)
    if len(lines) > _AT_ONCE:
        body = await asyncio.to_thread(representations.body, question, standing, lines, notes)
    else:
        body = representations.body(question, standing, lines, notes)
    services.answers.keep(question.tag(standing), body)
    return standing, body


async def _thinned(connection: Connection, question: Question) -> tuple[list[int], list[Note]]:
    """Return the epochs that stand for all, and the notes on all."""
    assert question.max_points is not None, "asked to thin"
    names = [name for name in question.names if name != queries.REPLICAS]
    epochs, columns = await queries.columns(connection, question.job_id, question.after, names)
    places = await asyncio.to_thread(kept, columns, len(epochs), question.max_points)
    notes = await asyncio.to_thread(representations.notes_on, names, columns, epochs)
    return [epochs[place] for place in places], notes
