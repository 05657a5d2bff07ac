"""How one job is stored: its row, its first transition and the audit of it, in one statement."""

from typing import Any

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from api.access.caller import Caller
from api.jobs.schemas import JobView, Progress, TransitionView
from models.job import DEFAULT_QUEUE, Status, waits_for

# As text, and as one: adding three rows to the session took ten times as long.
_STORE = text(
    """
    WITH stored AS (
        INSERT INTO jobs (id, user_id, name, queue, status, message, spec, epochs, attempt, retries)
        VALUES (:id, :user_id, :name, :queue, :status, :message, :spec, :epochs, 0, 0)
        RETURNING created_at
    ), moved AS (
        INSERT INTO transitions (job_id, to_status, message, attempt)
        VALUES (:id, :status, :message, 0)
        RETURNING at
    ), audited AS (
        INSERT INTO audit (user_id, token_id, action, subject, request_id, detail)
        VALUES (:user_id, :token_id, 'job.submit', :subject, :request_id, '{}')
    )
    SELECT created_at, at FROM stored, moved
    """
).bindparams(bindparam("spec", type_=JSONB()))


async def submit(session: AsyncSession, caller: Caller, spec: dict[str, Any]) -> JobView:
    """Store a resolved spec as a queued job of the caller, and return what is shown of it."""
    job_id, status, message = uuid7(), Status.QUEUED, waits_for(spec)
    values = {
        "id": job_id,
        "user_id": caller.user_id,
        "name": spec["name"],
        "queue": DEFAULT_QUEUE,
        "status": status.value,
        "message": message,
        "spec": spec,
        "epochs": spec["training"]["epochs"],
        "token_id": caller.token_id,
        "subject": f"job:{job_id}",
        "request_id": caller.request_id,
    }
    created_at, queued_at = (await session.execute(_STORE, values)).one()
    move = TransitionView(from_status=None, to_status=status, reason=None, message=message, attempt=0, at=queued_at)
    return JobView(
        id=job_id,
        user=caller.name,
        sweep=None,
        queue=DEFAULT_QUEUE,
        name=spec["name"],
        status=status,
        reason=None,
        message=message,
        attempt=0,
        progress=Progress(epoch=0, epochs=spec["training"]["epochs"]),
        last=None,
        best=None,
        test=None,
        created_at=created_at,
        started_at=None,
        finished_at=None,
        transitions=[move],
        spec=spec,
    )
