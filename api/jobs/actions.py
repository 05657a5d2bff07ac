"""The routes of what one can do to a job: pause, resume, try again, and submit the same once more."""

from typing import Literal

from fastapi import APIRouter, BackgroundTasks, Response
from pydantic import Field, JsonValue
from sqlalchemy.ext.asyncio import AsyncSession

from api.access.caller import WriterDep
from api.audit.queries import record
from api.codes import answers
from api.idempotency import IDEMPOTENT, IdempotentRoute, StatementDep
from api.jobs import queries, submission
from api.jobs.limits import room_in_queue
from api.jobs.routes import JobId
from api.jobs.schemas import JobView
from api.openapi import CREATED
from api.services import Services, ServicesDep, SessionDep
from models.faults import FaultPoint, fault_point
from models.job import Job, Status, notification
from models.merge_patch import merged
from models.pace import refresh_estimates
from models.point_specs import spec_of
from models.validation import Name, Strict

router = APIRouter(
    tags=["jobs"],
    route_class=IdempotentRoute,
)

_MOVES = ("job_not_found", "not_yours", "illegal_move")


class Retry(Strict):
    """How a job is tried again."""

    start: Literal["checkpoint", "start"] = Field(
        default="checkpoint",
        alias="from",
        description="`checkpoint`: go on from the last one, where there is one; `start`: use none of them.",
    )


class Clone(Strict):
    """What is to differ from the job that is cloned."""

    overrides: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="A JSON merge patch (RFC 7396) over the job's spec: objects are merged field by field, null puts a "
        "field back to its default, all else replaces.",
    )
    name: Name | None = Field(default=None, description="A name of its own; unless it is given, that of the original.")


@router.post("/jobs/{job_id}/pause", status_code=202, dependencies=[IDEMPOTENT], responses=answers(*_MOVES))
async def pause_job(job_id: JobId, caller: WriterDep, session: SessionDep) -> JobView:
    """Let a running job stop at the end of its epoch and free its slot, or keep a waiting one from starting."""
    job = await queries.lock_job(session, caller, job_id)
    job.pause()
    record(session, caller, "job.pause", f"job:{job_id}")
    await session.execute(notification(job_id))
    await session.flush()
    fault_point(FaultPoint.PAUSE)
    return await queries.job_view(session, caller, job_id)


@router.post(
    "/jobs/{job_id}/resume", status_code=202, dependencies=[IDEMPOTENT], responses=answers(*_MOVES, "queue_limit")
)
async def resume_job(
    job_id: JobId, caller: WriterDep, session: SessionDep, services: ServicesDep, background: BackgroundTasks
) -> JobView:
    """Let a paused job wait for a worker again; a pause that has not come about yet is taken back."""
    job = await queries.lock_job(session, caller, job_id)
    room = await room_in_queue(session, services.settings, job.user_id)
    job.resume(await queries.unmet(session, job))
    if job.status == Status.QUEUED:
        room.require()
    record(session, caller, "job.resume", f"job:{job_id}")
    await _line_up(session, job, services, background)
    return await queries.job_view(session, caller, job_id)


@router.post(
    "/jobs/{job_id}/retry",
    status_code=202,
    dependencies=[IDEMPOTENT],
    responses=answers(*_MOVES, "dependency_failed", "queue_limit"),
)
async def retry_job(
    job_id: JobId,
    caller: WriterDep,
    session: SessionDep,
    services: ServicesDep,
    background: BackgroundTasks,
    retry: Retry | None = None,
) -> JobView:
    """Try a job again that has failed or was cancelled, from its last checkpoint or from the start.

    Its time limit starts anew, and attempts that were lost before do not count. Its epochs stay until the new attempt
    has recorded its own.
    """
    how = retry or Retry()
    job, sweep, unmet = await queries.lock_for_retry(session, caller, job_id)
    room = await room_in_queue(session, services.settings, job.user_id)
    job.retry(unmet, from_start=how.start == "start")
    room.require()
    if sweep is not None:
        sweep.reopen()
    record(session, caller, "job.retry", f"job:{job_id}", {"from": how.start})
    await _line_up(session, job, services, background)
    return await queries.job_view(session, caller, job_id)


@router.post(
    "/jobs/{job_id}/clone",
    status_code=201,
    response_model=JobView,
    dependencies=[IDEMPOTENT],
    responses=answers("job_not_found", "invalid_spec", "priority_not_allowed", "queue_limit") | CREATED,
)
async def clone_job(
    job_id: JobId,
    caller: WriterDep,
    statement: StatementDep,
    services: ServicesDep,
    background: BackgroundTasks,
    clone: Clone | None = None,
) -> Response:
    """Submit the spec of a job once more as a job of your own, with the seed that it had unless `overrides` change it.

    The whole spec is checked like a new one: errors name its fields.
    """
    how = clone or Clone()
    spec = merged(await queries.spec(statement, caller, job_id), how.overrides)
    if "name" in how.model_fields_set:
        spec = merged(spec, {"name": how.name})
    job = await submission.submit(
        statement,
        caller,
        spec_of(spec, {}).as_json(),
        settings=services.settings,
        detail={"clone_of": str(job_id)},
    )
    background.add_task(services.news.tell, [job.id])
    background.add_task(services.wakes.send, job.queue.name)
    return Response(job.model_dump_json(), 201, {"Location": f"/jobs/{job.id}"}, "application/json")


async def _line_up(session: AsyncSession, job: Job, services: Services, background: BackgroundTasks) -> None:
    """Let a job that was moved be estimated anew and heard of, and wake a worker where it waits for one."""
    await session.execute(notification(job.id))
    await session.flush()
    await session.execute(refresh_estimates([job.id]))
    if job.status == Status.QUEUED and job.unmet == 0:
        background.add_task(services.wakes.send, job.queue)
