"""How sweeps are read from the database, and how one is cancelled with its jobs."""

from collections import defaultdict
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer

from api.access.caller import Caller
from api.audit.queries import record
from api.jobs import references
from api.statements import connection_of
from api.sweeps.schemas import PointView, SweepDetail, SweepView
from api.sweeps.summary import ranked, summarised
from models.database import database_now
from models.errors import FieldError, InvalidSpec, SweepNotFound
from models.job import FINAL, Job, Status, notification
from models.point_specs import spec_of
from models.sweep import DELETED, Sweep, SweepPoint
from models.sweep_scores import best_values
from models.sweep_spec import SweepSpec
from models.user import User


async def lock_sweep(session: AsyncSession, caller: Caller, sweep_id: UUID) -> Sweep:
    """Return a sweep that the caller may change, locked until the transaction ends; raise SweepNotFound or NotYours."""
    sweep = await session.get(Sweep, sweep_id, with_for_update=True)
    if sweep is None or not caller.may_read(sweep.user_id):
        raise _not_found(sweep_id)
    caller.check_may_change(sweep.user_id)
    return sweep


async def check_references(session: AsyncSession, caller: Caller, sweep: Sweep) -> None:
    """Raise InvalidSpec naming a job in the spec of a sweep that its jobs could not wait for, or start from."""
    try:
        await references.unmet(await connection_of(session), caller, spec_of(sweep.plan.spec, {}).as_json())
    except InvalidSpec as error:
        fields = [FieldError(f"spec.{field.loc}", field.message, field.code) for field in error.errors]
        raise InvalidSpec(fields) from None


async def sweep_detail(session: AsyncSession, caller: Caller, sweep_id: UUID) -> SweepDetail:
    """Show one sweep with its leaderboard; raise SweepNotFound."""
    query = select(Sweep, User.name).join(User, User.id == Sweep.user_id).where(Sweep.id == sweep_id)
    row = (await session.execute(query)).tuples().one_or_none()
    if row is None or not caller.may_read(row[0].user_id):
        raise _not_found(sweep_id)
    sweep, user = row
    plan = sweep.plan
    points = await _points(session, sweep_id, plan)
    jobs = await _jobs_by_status(session, [sweep_id])
    return SweepDetail.whole(
        sweep,
        user,
        jobs=jobs[sweep_id],
        leaderboard=ranked(points, maximizes=plan.maximizes),
        summary=summarised(plan, points),
    )


async def page(session: AsyncSession, caller: Caller, *, after: UUID | None, limit: int) -> list[SweepView]:
    """Show at most `limit` sweeps, newest first, older than `after`."""
    query = select(Sweep, User.name).join(User, User.id == Sweep.user_id).order_by(Sweep.id.desc()).limit(limit)
    query = query.options(defer(Sweep.request, raiseload=True))
    if not caller.may_read_all:
        query = query.where(Sweep.user_id == caller.user_id)
    if after is not None:
        query = query.where(Sweep.id < after)
    found = (await session.execute(query)).tuples().all()
    ids = [sweep.id for sweep, _ in found]
    jobs, tried = await _jobs_by_status(session, ids), await _tried(session, ids)
    return [SweepView.of(sweep, user, tried=tried.get(sweep.id, 0), jobs=jobs[sweep.id]) for sweep, user in found]


async def cancel(session: AsyncSession, caller: Caller, sweep: Sweep) -> bool:
    """Try no more points of a locked sweep and cancel its jobs for the caller; return whether that changed anything."""
    if not sweep.cancel(await database_now(session)):
        return False
    its_jobs = select(Job).where(Job.sweep_id == sweep.id, Job.status.not_in(FINAL)).order_by(Job.id)
    for job in (await session.scalars(its_jobs.with_for_update())).all():
        if job.cancel():
            record(session, caller, "job.cancel", f"job:{job.id}", {"sweep": str(sweep.id)})
            await session.execute(notification(job.id))
    await session.flush()
    return True


async def _points(session: AsyncSession, sweep_id: UUID, plan: SweepSpec) -> list[PointView]:
    """Return the points so far, in the order in which they were tried."""
    values = await session.execute(best_values(sweep_id, plan.objective, maximizes=plan.maximizes))
    best: dict[UUID | None, tuple[int | None, float | None]] = {
        job_id: (epoch, value) for job_id, epoch, value in values.tuples()
    }
    query = select(SweepPoint, Job.status, Job.reason, Job.message).outerjoin(Job, Job.id == SweepPoint.job_id)
    rows = await session.execute(query.where(SweepPoint.sweep_id == sweep_id).order_by(SweepPoint.number))
    points = []
    for point, status, reason, message in rows:
        epoch, value = best.get(point.job_id, (None, None))
        points.append(
            PointView(
                rank=None,
                point=point.number,
                parameters=point.parameters,
                job_id=point.job_id,
                status="refused" if status is None else Status(status),
                reason=reason if status is not None else "job_deleted" if point.refusal == DELETED else "invalid_spec",
                message=point.refusal or message,
                value=value,
                epoch=epoch,
            )
        )
    return points


async def _jobs_by_status(session: AsyncSession, sweep_ids: Sequence[UUID]) -> dict[UUID, dict[Status, int]]:
    query = select(Sweep.id, Job.status, func.count()).join(Job, Job.sweep_id == Sweep.id)
    query = query.where(Sweep.id.in_(sweep_ids), Job.deleted_at.is_(None)).group_by(Sweep.id, Job.status)
    counts: dict[UUID, dict[Status, int]] = defaultdict(dict)
    for sweep_id, status, count in await session.execute(query):
        counts[sweep_id][Status(status)] = count
    return counts


async def _tried(session: AsyncSession, sweep_ids: Sequence[UUID]) -> dict[UUID, int]:
    query = select(SweepPoint.sweep_id, func.count()).where(SweepPoint.sweep_id.in_(sweep_ids))
    return dict((await session.execute(query.group_by(SweepPoint.sweep_id))).tuples().all())


def _not_found(sweep_id: UUID) -> SweepNotFound:
    return SweepNotFound(f"There is no sweep {sweep_id}.")
