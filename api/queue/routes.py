"""The routes of the queue: the order as it stands; and the named queues, which admins pause and resume."""

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Depends, Path, Query
from pydantic import TypeAdapter, ValidationError

from api.access.caller import AdminDep, ReaderDep
from api.audit.queries import record
from api.codes import answers
from api.paging import Limit, cut
from api.query_names import takes
from api.queue import queries
from api.queue.line import Wanted
from api.queue.schemas import LinePage, QueuePage, QueueView
from api.services import ServicesDep, SessionDep
from api.strict_json import StrictRoute
from models.errors import QueueNotFound
from models.validation import Name, QueueName

router = APIRouter(tags=["queue"], route_class=StrictRoute)

_QUEUE_NAME: TypeAdapter[str] = TypeAdapter(QueueName)
_NOT_FOUND = answers("queue_not_found")


def _queue_name(name: Annotated[str, Path(json_schema_extra=_QUEUE_NAME.json_schema())]) -> str:
    try:
        return _QUEUE_NAME.validate_python(name)
    except ValidationError:
        raise QueueNotFound("There is no such queue: a name is of a-z, 0-9, _ and -, 64 at most.") from None


QueueNameInPath = Annotated[str, Depends(_queue_name)]


@router.get("/queue", dependencies=[takes("queue", "user", "after", "limit")])
async def show_line(
    caller: ReaderDep,
    services: ServicesDep,
    queue: Annotated[QueueName | None, Query(description="Jobs of this queue")] = None,
    user: Annotated[Name | None, Query(description="Jobs of the user of this name")] = None,
    after: Annotated[int, Query(ge=0, le=2**31 - 1, description="Jobs behind this position")] = 0,
    limit: Limit = 20,
) -> LinePage:
    """List the waiting jobs in the order in which they run as things stand, each with why it waits and until when.

    It is worked out every two seconds at most, and may move between two pages: pass `next` as `after` for the following
    one. When they start and end is estimated for the first thousand. Who may read their own jobs alone sees only those,
    in their places among all, and nobody else's name.
    """
    wanted = Wanted(queue, user, None if caller.may_read_all else caller.user_id)
    standing, found = await services.line.page(wanted, after=after, limit=limit + 1)
    items, last = cut(found, limit)
    return LinePage(
        as_of=standing.as_of,
        totals=standing.totals,
        items=[standing.view(queued, names_others=caller.may_read_all) for queued in items],
        next=last.position if last else None,
    )


@router.get("/queues", dependencies=[takes("after", "limit")])
async def list_queues(
    caller: ReaderDep, session: SessionDep, after: Name | None = None, limit: Limit = 20
) -> QueuePage:
    """List by name the queues in which a job waits or runs, that a worker serves, or that are paused."""
    items, last = cut(await queries.page(session, after=after, limit=limit + 1), limit)
    return QueuePage(items=items, next=last.name if last else None)


@router.post("/queues/{name}/pause", responses=_NOT_FOUND)
async def pause_queue(name: QueueNameInPath, caller: AdminDep, session: SessionDep) -> QueueView:
    """Let no job of a queue start until it is resumed; what runs goes on. A queue may be paused before its first job.

    One that is paused already is left as it is.
    """
    if await queries.pause(session, name, by=caller.user_id):
        record(session, caller, "queue.pause", f"queue:{name}")
    return await queries.view(session, name)


@router.post("/queues/{name}/resume", responses=_NOT_FOUND)
async def resume_queue(
    name: QueueNameInPath, caller: AdminDep, session: SessionDep, services: ServicesDep, background: BackgroundTasks
) -> QueueView:
    """Let the jobs of a paused queue start again; one that is not paused is left as it is."""
    resumed = await queries.resume(session, name)
    if resumed:
        record(session, caller, "queue.resume", f"queue:{name}")
    shown = await queries.view(session, name)
    if resumed and shown.waiting > 0:
        background.add_task(services.wakes.send, name, shown.waiting)
    return shown
