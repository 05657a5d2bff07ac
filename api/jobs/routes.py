"""The routes of jobs: submit, validate, list, follow, cancel, and read the result."""

from typing import Annotated
from uuid import UUID

import structlog
from fastapi import APIRouter, BackgroundTasks, Depends, Response

from api.access.caller import ReaderDep, WriterDep
from api.audit.queries import record
from api.codes import answers
from api.idempotency import IDEMPOTENT, IdempotentRoute, StatementDep
from api.jobs import queries, submission
from api.jobs.limits import check_priority
from api.jobs.listing import ListingDep, parameters
from api.jobs.schemas import JobChange, JobPage, JobView, LogView, ValidatedView
from api.openapi import CREATED
from api.path_ids import UuidText, uuid_in_path
from api.recipes.schemas import SubmittedSpec
from api.services import ReadSessionDep, ServicesDep, SessionDep
from models.errors import JobNotFound
from models.faults import FaultPoint, fault_point
from models.job import notification
from models.result import Result

router = APIRouter(
    tags=["jobs"],
    route_class=IdempotentRoute,
)


async def _job_id(job_id: UuidText) -> UUID:
    parsed = uuid_in_path(job_id, JobNotFound("There is no such job: an id is a UUID."))
    structlog.contextvars.bind_contextvars(job=str(parsed))
    return parsed


JobId = Annotated[UUID, Depends(_job_id)]

_NOT_FOUND = answers("job_not_found")


@router.post(
    "/jobs",
    status_code=201,
    response_model=JobView,
    dependencies=[IDEMPOTENT],
    responses=answers("priority_not_allowed", "queue_limit") | CREATED,
)
async def submit_job(
    spec: SubmittedSpec,
    caller: WriterDep,
    statement: StatementDep,
    services: ServicesDep,
    background: BackgroundTasks,
) -> Response:
    """Store a job and wake a worker; the answer carries its id, in the body and in `Location`."""
    job = await submission.submit(statement, caller, spec.resolved().as_json(), settings=services.settings)
    background.add_task(services.news.tell, [job.id])
    background.add_task(services.wakes.send, job.queue.name)
    return Response(job.model_dump_json(), 201, {"Location": f"/jobs/{job.id}"}, "application/json")


@router.post("/jobs:validate")
async def validate_job(spec: SubmittedSpec, caller: ReaderDep) -> ValidatedView:
    """Fill in every default and count the network's parameters and MACs; nothing is stored."""
    return ValidatedView.of(spec.resolved())


@router.get(
    "/jobs",
    response_model=JobPage,
    openapi_extra={"parameters": parameters()},
)
async def list_jobs(caller: ReaderDep, session: ReadSessionDep, services: ServicesDep, listing: ListingDep) -> Response:
    """List jobs, newest first unless `sort` says otherwise; pass `next` as `after` for the following page.

    All filters hold together. Scores are compared as they are typed: `best.validation_accuracy>=0.6`.
    """
    return Response(await queries.page_text(session, caller, listing, services.texts), media_type="application/json")


@router.get("/jobs/{job_id}", response_model=JobView, responses=_NOT_FOUND)
async def get_job(job_id: JobId, caller: ReaderDep, services: ServicesDep) -> Response:
    """Show a job: status, reason, transitions, progress, last and best metrics, its place in the line and estimates."""
    text = await queries.whole_job_text(services.read_sessions, services.line, caller, job_id)
    return Response(text, media_type="application/json")


@router.patch("/jobs/{job_id}", responses=answers("job_not_found", "not_yours", "illegal_move", "priority_not_allowed"))
async def change_job(
    job_id: JobId, change: JobChange, caller: WriterDep, session: SessionDep, services: ServicesDep
) -> JobView:
    """Change the priority, the name or the tags of a job that waits; what is left out stays, a null name is taken away.

    Its place in the line follows the priority at once.
    """
    job = await queries.lock_job(session, caller, job_id)
    changed = job.amend(change.wanted())
    if "priority" in changed:
        check_priority(caller, services.settings, changed["priority"])
    if changed:
        record(session, caller, "job.update", f"job:{job_id}", changed)
        await session.execute(notification(job_id))
        await session.flush()
    return await queries.job_view(session, caller, job_id)


@router.get(
    "/jobs/{job_id}/result", response_model=Result, responses=answers("job_not_found", "job_not_finished", "no_result")
)
async def get_result(job_id: JobId, caller: ReaderDep, session: SessionDep) -> Response:
    """Return the whole result of a job that has succeeded."""
    return Response(await queries.result_text(session, caller, job_id), media_type="application/json")


@router.get("/jobs/{job_id}/logs", responses=_NOT_FOUND)
async def get_logs(job_id: JobId, caller: ReaderDep, session: SessionDep) -> LogView:
    """Return what the job's runners printed, warnings and tracebacks included."""
    return LogView(job_id=job_id, entries=await queries.log_entries(session, caller, job_id))


@router.post(
    "/jobs/{job_id}/cancel",
    status_code=202,
    dependencies=[IDEMPOTENT],
    responses=answers("job_not_found", "not_yours", "illegal_move"),
)
async def cancel_job(job_id: JobId, caller: WriterDep, session: SessionDep) -> JobView:
    """Ask for the end of a job; its recorded epochs stay. A job that has ended is left as it is."""
    job = await queries.lock_job(session, caller, job_id)
    if job.cancel():
        record(session, caller, "job.cancel", f"job:{job_id}")
        await session.execute(notification(job_id))
        await session.flush()
        fault_point(FaultPoint.CANCEL)
    return await queries.job_view(session, caller, job_id)
