"""The routes of jobs: submit, validate, list, follow, cancel, and read the result."""

import asyncio
import hashlib
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, BackgroundTasks, Depends, Header, Path, Query, Response

from api.jobs import queries
from api.jobs.schemas import JobPage, JobView, LogView, MetricsView, ValidatedView
from api.problems import Problem
from api.recipes.schemas import SubmittedSpec
from api.services import Services, ServicesDep, SessionDep
from api.strict_json import StrictRoute
from models.errors import JobNotFound
from models.job import Job, Status, notification
from models.result import Result

router = APIRouter(tags=["jobs"], route_class=StrictRoute, responses={503: {"model": Problem}})

MAX_PAGE = 100
MAX_WAIT_SECONDS = 30
_MAX_EPOCH = 2**31 - 1


def _job_id(job_id: Annotated[str, Path(json_schema_extra={"format": "uuid"})]) -> UUID:
    # Python's UUID takes braces and URNs too; an id has one spelling.
    try:
        parsed = UUID(job_id)
    except ValueError:
        parsed = None
    if parsed is None or str(parsed) != job_id.lower():
        raise JobNotFound("There is no such job: an id is a UUID.")
    return parsed


JobId = Annotated[UUID, Depends(_job_id)]

_BAD_SPEC: dict[int | str, dict[str, Any]] = {status: {"model": Problem} for status in (400, 413, 415, 422)}
_NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": Problem}}


@router.post("/jobs", status_code=201, responses=_BAD_SPEC)
async def submit_job(
    spec: SubmittedSpec, session: SessionDep, services: ServicesDep, background: BackgroundTasks, response: Response
) -> JobView:
    """Store a job and wake a worker; the answer carries its id, in the body and in `Location`."""
    job = Job.submit(spec.resolved().as_json())
    session.add(job)
    await session.flush()
    background.add_task(services.wakes.send, job.queue)
    response.headers["Location"] = f"/jobs/{job.id}"
    return await queries.job_view(session, job.id)


@router.post("/jobs:validate", responses=_BAD_SPEC)
async def validate_job(spec: SubmittedSpec) -> ValidatedView:
    """Fill in every default and count the network's parameters and MACs; nothing is stored."""
    return ValidatedView.of(spec.resolved())


@router.get("/jobs", responses={422: {"model": Problem}})
async def list_jobs(
    session: SessionDep,
    status: Status | None = None,
    after: UUID | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20,
) -> JobPage:
    """List jobs, newest first; pass `next` as `after` for the following page."""
    items = await queries.page(session, status=status, after=after, limit=limit + 1)
    shown = items[:limit]
    return JobPage(items=shown, next=shown[-1].id if len(items) > limit else None)


@router.get("/jobs/{job_id}", responses=_NOT_FOUND)
async def get_job(job_id: JobId, session: SessionDep) -> JobView:
    """Show a job: status, reason, transitions, progress, last and best metrics."""
    return await queries.job_view(session, job_id)


@router.get(
    "/jobs/{job_id}/metrics",
    response_model=MetricsView,
    responses=_NOT_FOUND | {304: {"description": "Unchanged"}, 422: {"model": Problem}},
)
async def get_metrics(
    job_id: JobId,
    services: ServicesDep,
    after: Annotated[int, Query(ge=-1, le=_MAX_EPOCH)] = -1,
    wait: Annotated[float, Query(ge=0, le=MAX_WAIT_SECONDS, allow_inf_nan=False)] = 0,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Show the epochs after `after`; with `wait`, hold the answer up to that many seconds until there is news.

    Epoch 0, where there is one, is the untrained network: it comes after -1.
    """
    view = await _metrics_when_new(services, job_id, after, wait)
    body = view.model_dump_json().encode()
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    if if_none_match is not None and _matches(etag, if_none_match):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


@router.get("/jobs/{job_id}/result", response_model=Result, responses=_NOT_FOUND | {409: {"model": Problem}})
async def get_result(job_id: JobId, session: SessionDep) -> Response:
    """Return the whole result of a job that has succeeded."""
    return Response(await queries.result_text(session, job_id), media_type="application/json")


@router.get("/jobs/{job_id}/logs", responses=_NOT_FOUND)
async def get_logs(job_id: JobId, session: SessionDep) -> LogView:
    """Return what the job's runners printed, warnings and tracebacks included."""
    return LogView(job_id=job_id, entries=await queries.log_entries(session, job_id))


@router.post("/jobs/{job_id}/cancel", status_code=202, responses=_NOT_FOUND)
async def cancel_job(job_id: JobId, session: SessionDep) -> JobView:
    """Ask for the end of a job; its recorded epochs stay. A job that has ended is left as it is."""
    job = await queries.lock_job(session, job_id)
    if job.cancel():
        await session.execute(notification(job_id))
        await session.flush()
    return await queries.job_view(session, job_id)


async def _metrics_when_new(services: Services, job_id: UUID, after: int, wait: float) -> MetricsView:
    """Read until there is news or the time is up; no connection is held while waiting."""
    deadline = asyncio.get_running_loop().time() + wait
    with services.news.of(job_id) as changed:
        first = view = await _read_metrics(services, job_id, after)
        while not view.epochs and not view.terminal and view.status == first.status:
            try:
                async with asyncio.timeout_at(deadline):
                    await changed.wait()
            except TimeoutError:
                break
            changed.clear()  # before the read: what happens during it must wake us again
            view = await _read_metrics(services, job_id, after)
    return view


async def _read_metrics(services: Services, job_id: UUID, after: int) -> MetricsView:
    # All readers of a job wake at once: they take turns, and leave connections for other requests.
    async with services.readers, services.sessions() as session:
        return await queries.metrics(session, job_id, after)


def _matches(etag: str, if_none_match: str) -> bool:
    """Compare as RFC 9110 says: any of the listed tags, weakly."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in tags or etag in tags
