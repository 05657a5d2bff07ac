"""The route of a job's events."""

from typing import Annotated

from fastapi import APIRouter, Query

from api.access.caller import ReaderDep
from api.codes import answers
from api.events import queries
from api.events.schemas import EventPage
from api.jobs.queries import require_visible
from api.jobs.routes import JobId
from api.paging import Limit, cut
from api.services import ReadSessionDep
from api.strict_json import StrictRoute

router = APIRouter(tags=["jobs"], route_class=StrictRoute)

_After = Annotated[int, Query(ge=0, le=2**63 - 1, description="The `id` of the last event seen; 0: from the beginning")]


@router.get("/jobs/{job_id}/events", responses=answers("job_not_found"))
async def list_events(
    job_id: JobId, caller: ReaderDep, session: ReadSessionDep, after: _After = 0, limit: Limit = 20
) -> EventPage:
    """List what happened to a job, oldest first: every change of its status, and what its attempts did.

    Nothing comes to stand before what was shown: with the last `id` as `after` the following request misses nothing.
    """
    await require_visible(session, caller, job_id)
    events, last = cut(await queries.page(session, job_id, after=after, limit=limit + 1), limit)
    return EventPage(items=events, next=last.id if last else None)
