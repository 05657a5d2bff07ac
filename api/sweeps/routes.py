"""The routes of sweeps: submit one, list them, read what came of one, cancel it."""

from functools import partial
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Response

from api.access.caller import ReaderDep, WriterDep
from api.audit.queries import record
from api.codes import answers
from api.idempotency import IDEMPOTENT, IdempotentRoute, idempotent_after
from api.jobs.limits import check_priority
from api.openapi import CREATED
from api.paging import Limit, cut
from api.path_ids import UuidText, uuid_in_path
from api.services import ServicesDep, SessionDep
from api.sweeps import queries
from api.sweeps.schemas import SubmittedSweep, SweepDetail, SweepPage
from models.errors import SweepNotFound
from models.spec import JobSpec
from models.sweep import Sweep
from models.sweep_points import Check, prepared

router = APIRouter(
    tags=["sweeps"],
    route_class=IdempotentRoute,
)


async def _sweep_id(sweep_id: UuidText) -> UUID:
    return uuid_in_path(sweep_id, SweepNotFound("There is no such sweep: an id is a UUID."))


SweepId = Annotated[UUID, Depends(_sweep_id)]


async def _checked(sweep: SubmittedSweep, caller: WriterDep, services: ServicesDep) -> Sweep:
    """Return a sweep to be stored; raise InvalidSpec."""

    def check(spec: JobSpec) -> None:
        check_priority(caller, services.settings, spec.priority)

    return await services.checks.run(caller.user_id, partial(_prepared, sweep, caller.user_id, check))


def _prepared(sweep: SubmittedSweep, user_id: UUID, check: Check) -> Sweep:
    return Sweep.submit(prepared(sweep, check), user_id=user_id)


@router.post("/sweeps", status_code=201, responses=CREATED)
async def submit_sweep(
    sweep: Annotated[Sweep, idempotent_after(_checked)], caller: WriterDep, session: SessionDep, response: Response
) -> SweepDetail:
    """Store a sweep; its points become jobs one after the other, at most `max_concurrent` at a time.

    Every point of a grid, of a list and of a random sweep is checked first, as are the ends and choices of all ranges;
    a bad one refuses the sweep. A bayesian point that turns out not to fit is `refused` when its turn comes.
    """
    await queries.check_references(session, caller, sweep)
    session.add(sweep)
    await session.flush()
    record(session, caller, "sweep.submit", f"sweep:{sweep.id}", {"points": sweep.points})
    response.headers["Location"] = f"/sweeps/{sweep.id}"
    return await queries.sweep_detail(session, caller, sweep.id)


@router.get("/sweeps")
async def list_sweeps(
    caller: ReaderDep, session: SessionDep, after: UUID | None = None, limit: Limit = 20
) -> SweepPage:
    """List sweeps, newest first; pass `next` as `after` for the following page."""
    items, last = cut(await queries.page(session, caller, after=after, limit=limit + 1), limit)
    return SweepPage(items=items, next=last.id if last else None)


@router.get("/sweeps/{sweep_id}", responses=answers("sweep_not_found"))
async def get_sweep(sweep_id: SweepId, caller: ReaderDep, session: SessionDep) -> SweepDetail:
    """Show a sweep: its jobs by status, its points in order of the objective, and what each parameter does to it."""
    return await queries.sweep_detail(session, caller, sweep_id)


@router.post(
    "/sweeps/{sweep_id}/cancel",
    status_code=202,
    dependencies=[IDEMPOTENT],
    responses=answers("sweep_not_found", "not_yours"),
)
async def cancel_sweep(sweep_id: SweepId, caller: WriterDep, session: SessionDep) -> SweepDetail:
    """Try no more points, and cancel the jobs that wait or run. A sweep that has ended is left as it is."""
    sweep = await queries.lock_sweep(session, caller, sweep_id)
    if await queries.cancel(session, caller, sweep):
        record(session, caller, "sweep.cancel", f"sweep:{sweep.id}")
    return await queries.sweep_detail(session, caller, sweep.id)
