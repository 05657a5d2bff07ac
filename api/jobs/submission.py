"""How one job is stored: its row, its first transition and the audit of it, in one statement."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb
from uuid_utils.compat import uuid7

from api.access.caller import Caller
from api.jobs import references
from api.jobs.limits import check_priority
from api.jobs.schemas import JobQueue, JobView, Progress, TransitionView
from api.settings import ApiSettings
from api.statements import Connection
from models.job import Status, columns_of, waits_for
from models.pace import ESTIMATED_SECONDS, GPU_MEMORY_BYTES
from models.queue_limit import QueueRoom, room_sql
from models.references import referenced_ids

# One statement, by the driver alone: adding three rows to a session took ten times as long.
_STORE = f"""
    WITH room AS ({room_sql("%(user_id)s", "%(max_queued)s")}
    ), stored AS (
        INSERT INTO jobs (id, user_id, name, queue, priority, device, gpus, gpu_memory_bytes, exclusive, likeness,
            status, message, spec, epochs, attempt, retries, unmet, estimated_seconds)
        SELECT %(id)s, %(user_id)s, %(name)s, %(queue)s, %(priority)s, %(device)s, %(gpus)s, {GPU_MEMORY_BYTES},
            %(exclusive)s, %(likeness)s, %(status)s, %(message)s, %(spec)s, %(epochs)s, 0, 0, %(unmet)s,
            {ESTIMATED_SECONDS}
        FROM room WHERE waiting < most
        RETURNING created_at
    ), moved AS (
        INSERT INTO transitions (job_id, to_status, message, attempt)
        SELECT %(id)s, %(status)s, %(message)s, 0 FROM stored
        RETURNING at
    ), audited AS (
        INSERT INTO audit (user_id, token_id, action, subject, request_id, detail)
        SELECT %(user_id)s, %(token_id)s, 'job.submit', %(subject)s, %(request_id)s, %(detail)s FROM stored
    )
    SELECT waiting, most, created_at, at FROM room LEFT JOIN stored ON true LEFT JOIN moved ON true
"""  # noqa: S608 - names of this program


async def submit(
    connection: Connection,
    caller: Caller,
    spec: dict[str, Any],
    *,
    settings: ApiSettings,
    detail: dict[str, Any] | None = None,
) -> JobView:
    """Store a resolved spec as a queued job of the caller, and return what is shown of it; `detail` is for the audit.

    Raises PriorityNotAllowed, QueueLimit where as many jobs of the caller wait as may, or InvalidSpec naming a job that
    the spec names and that cannot be waited for, or started from.
    """
    check_priority(caller, settings, spec["priority"])
    if not referenced_ids(spec):
        return await _store(connection, caller, spec, [], settings, detail or {})
    async with connection.transaction():  # in which the jobs that it names stay as they are
        unmet = await references.unmet(connection, caller, spec)
        return await _store(connection, caller, spec, unmet, settings, detail or {})


async def _store(
    connection: Connection,
    caller: Caller,
    spec: dict[str, Any],
    unmet: Sequence[UUID],
    settings: ApiSettings,
    detail: dict[str, Any],
) -> JobView:
    job_id, message = uuid7(), waits_for(spec, unmet)
    values = {
        "id": job_id,
        "user_id": caller.user_id,
        **columns_of(spec),
        "status": Status.QUEUED.value,
        "message": message,
        "unmet": len(unmet),
        "spec": Jsonb(spec),
        "token_id": caller.token_id,
        "subject": f"job:{job_id}",
        "request_id": caller.request_id,
        "detail": Jsonb(detail),
        "max_queued": settings.max_queued,
    }
    row = await (await connection.execute(_STORE, values)).fetchone()
    assert row is not None, "the room is always counted"
    waiting, most, created_at, queued_at = row
    if created_at is None:
        raise QueueRoom(waiting, most).refusal()
    return _new_view(caller, spec, job_id, message, created_at, queued_at)


def _new_view(
    caller: Caller, spec: dict[str, Any], job_id: UUID, message: str, created_at: datetime, queued_at: datetime
) -> JobView:
    """Return what is shown of a job that nothing has happened to yet, without reading it back."""
    status = Status.QUEUED
    move = TransitionView(from_status=None, to_status=status, reason=None, message=message, attempt=0, at=queued_at)
    return JobView(
        id=job_id,
        user=caller.name,
        sweep=None,
        queue=JobQueue(name=spec["queue"]),
        priority=spec["priority"],
        name=spec["name"],
        status=status,
        reason=None,
        message=message,
        attempt=0,
        retries=0,
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
