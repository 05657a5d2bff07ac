"""The routes of workers: list them, see what one runs, drain it, let it take jobs again."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, BackgroundTasks, Depends, Query
from sqlalchemy import func

from api.access.caller import AdminDep, ReaderDep
from api.audit.queries import record
from api.codes import answers
from api.paging import Limit, cut
from api.path_ids import UuidText, uuid_in_path
from api.services import ServicesDep, SessionDep
from api.strict_json import StrictRoute
from api.wakes import WakeSender
from api.workers import queries
from api.workers.schemas import WorkerDetail, WorkerPage
from models.errors import WorkerNotFound
from models.validation import Name, QueueName
from models.worker import WorkerState

router = APIRouter(tags=["workers"], route_class=StrictRoute)

_NOT_FOUND = answers("worker_not_found")
_WAKE_UPS = 4  # a wake-up goes to any worker of its queue; whom none reaches learns it with its next heartbeat


def _worker_id(worker_id: UuidText) -> UUID:
    return uuid_in_path(worker_id, WorkerNotFound("There is no such worker: an id is a UUID."))


WorkerId = Annotated[UUID, Depends(_worker_id)]


@router.get("/workers")
async def list_workers(
    caller: ReaderDep,
    session: SessionDep,
    state: WorkerState | None = None,
    queue: Annotated[QueueName | None, Query(description="Those that serve this queue")] = None,
    after: Name | None = None,
    limit: Limit = 20,
) -> WorkerPage:
    """List workers by name, also those that are gone; pass `next` as `after` for the following page."""
    items, last = cut(await queries.page(session, state=state, queue=queue, after=after, limit=limit + 1), limit)
    return WorkerPage(items=items, next=last.name if last else None)


@router.get("/workers/{worker_id}", responses=_NOT_FOUND)
async def get_worker(worker_id: WorkerId, caller: ReaderDep, session: SessionDep) -> WorkerDetail:
    """Show a worker, what it has, how busy it is, and its running jobs."""
    return await queries.detail(session, caller, worker_id)


@router.post("/workers/{worker_id}/drain", status_code=202, responses=_NOT_FOUND)
async def drain_worker(
    worker_id: WorkerId, caller: AdminDep, session: SessionDep, services: ServicesDep, background: BackgroundTasks
) -> WorkerDetail:
    """Let a worker finish what it runs and take nothing new, also after a restart, until it is resumed.

    A worker that is drained already is left as it is.
    """
    worker = await queries.lock_worker(session, worker_id)
    if worker.draining_since is None:
        worker.draining_since = func.clock_timestamp()
        record(session, caller, "worker.drain", f"worker:{worker_id}", {"name": worker.name})
        await session.flush()
        background.add_task(_wake, services.wakes, worker.queues)
    return await queries.detail(session, caller, worker_id)


@router.post("/workers/{worker_id}/resume", responses=_NOT_FOUND)
async def resume_worker(
    worker_id: WorkerId, caller: AdminDep, session: SessionDep, services: ServicesDep, background: BackgroundTasks
) -> WorkerDetail:
    """Let a drained worker take jobs again; one that is not drained is left as it is."""
    worker = await queries.lock_worker(session, worker_id)
    if worker.draining_since is not None:
        worker.draining_since = None
        record(session, caller, "worker.resume", f"worker:{worker_id}", {"name": worker.name})
        await session.flush()
        background.add_task(_wake, services.wakes, worker.queues)
    return await queries.detail(session, caller, worker_id)


async def _wake(wakes: WakeSender, queues: list[str]) -> None:
    for queue in queues:
        await wakes.send(queue, _WAKE_UPS)
