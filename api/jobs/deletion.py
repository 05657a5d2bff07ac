"""The route that deletes a job: it is gone at once to whoever asks; the scheduler removes its files, then its row."""

from uuid import UUID

from fastapi import APIRouter
from sqlalchemy import Select, select

from api.access.caller import Caller, WriterDep
from api.audit.queries import record
from api.codes import answers
from api.idempotency import IdempotentRoute
from api.jobs import queries
from api.jobs.routes import JobId
from api.services import SessionDep
from models.deletion import heir_of, let_points_go, open_sweep_of
from models.errors import JobInUse, JobNotFound
from models.job import notification
from models.user import AuditEntry

router = APIRouter(tags=["jobs"], route_class=IdempotentRoute)

_ACTION = "job.delete"


@router.delete(
    "/jobs/{job_id}", status_code=204, responses=answers("job_not_found", "not_yours", "illegal_move", "job_in_use")
)
async def delete_job(job_id: JobId, caller: WriterDep, session: SessionDep) -> None:
    """Delete a job that has ended: its epochs, result, predictions, log and checkpoints; the audit stays.

    Whoever deleted it may ask again, and is answered the same. A job that others still need is left: one whose weights
    another is to begin with, or one of a sweep that goes on. What other jobs have taken of its weights is theirs.
    """
    try:
        job = await queries.lock_job(session, caller, job_id)
    except JobNotFound:
        if await session.scalar(_deletion(caller, job_id)) is None:
            raise
        return
    job.delete()
    if (heir := await session.scalar(heir_of(job_id))) is not None:
        raise JobInUse(f"Job {heir} is to begin with the weights of this one: cancel it first, or wait for its start.")
    if (sweep := await session.scalar(open_sweep_of(job_id))) is not None:
        raise JobInUse(f"Sweep {sweep} goes on, and its next points depend on this job: cancel it first, or wait.")
    await session.execute(let_points_go([job_id]))
    record(session, caller, _ACTION, f"job:{job_id}", {"name": job.name, "status": job.status})
    await session.execute(notification(job_id))


def _deletion(caller: Caller, job_id: UUID) -> Select[int]:
    """Select the record that the caller has deleted this job, of which nothing else may be left."""
    own = (AuditEntry.subject == f"job:{job_id}", AuditEntry.action == _ACTION, AuditEntry.user_id == caller.user_id)
    return select(AuditEntry.id).where(*own).limit(1)
