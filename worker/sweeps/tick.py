"""One step of every open sweep: jobs are given up, points become jobs, and what is over is closed.

All of it is decided from rows, under the lock of the sweep's own row and in one transaction: a scheduler may be killed
at any moment, and two of them may run.
"""

from itertools import islice
from typing import Any, Literal
from uuid import UUID

import structlog
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session, sessionmaker

from models.errors import InvalidSpec
from models.job import FINAL, Job, Status, notification
from models.pace import refresh_estimates
from models.point_specs import named, spec_of
from models.queue_limit import QueueRoom, room_of
from models.reasons import STOPPED_BY_SWEEP
from models.references import REFERENCED, found, referenced_ids, unmet_of
from models.sweep import Sweep, SweepPoint
from models.sweep_scores import best_values, curves
from models.sweep_spec import Bayesian, Point, SweepSpec
from models.user import AuditEntry, User
from worker.sweeps.bayesian import Tried, propose
from worker.sweeps.stopping import Curve, why_it_stops

log = structlog.get_logger(__name__)

# A proposal beside a thousand others takes some 70 ms: a step stays below a second, and the leases are seen to between.
_POINTS_PER_STEP = 10


def advance_sweeps(sessions: sessionmaker[Session], *, max_queued: int) -> set[str]:
    """Take every open sweep one step further, each in a transaction of its own; return the queues that got a job.

    `max_queued` is how many jobs may wait of a user who has no limit of their own.
    """
    with sessions.begin() as session:
        still_open = session.scalars(select(Sweep.id).where(Sweep.ended_at.is_(None)).order_by(Sweep.id)).all()
    queues: set[str] = set()
    for sweep_id in still_open:
        try:
            with sessions.begin() as session:
                queues |= _advance(session, sweep_id, max_queued)
        except Exception:  # a sweep that cannot go on must not hold up the others
            log.exception("sweep_stuck", sweep=str(sweep_id))
    return queues


def _advance(session: Session, sweep_id: UUID, max_queued: int) -> set[str]:
    """Take one sweep a step further, unless another scheduler is at it; return the queues that got a job."""
    its_row = select(Sweep).where(Sweep.id == sweep_id, Sweep.ended_at.is_(None))
    sweep = session.scalar(its_row.with_for_update(skip_locked=True))
    if sweep is None:
        return set()
    plan = sweep.plan
    if plan.early_stop is not None and sweep.cancelled_at is None:
        _stop_early(session, sweep, plan)
    active = _count(session, Job, Job.sweep_id == sweep.id, Job.status.not_in(FINAL))
    tried = _count(session, SweepPoint, SweepPoint.sweep_id == sweep.id)
    left = sweep.points - tried if sweep.cancelled_at is None else 0
    if left == 0 and active == 0:
        sweep.end(session.scalars(select(func.clock_timestamp())).one())
        log.info("sweep_ended", sweep=str(sweep.id))
    elif session.get_one(User, sweep.user_id).disabled_at is not None:
        return set()  # it waits for its user to be enabled again
    # Points wait where as many jobs of the user wait as may: they are not refused for it.
    room = QueueRoom(*session.execute(room_of(sweep.user_id, default=max_queued)).one())
    wanted = min(left, plan.max_concurrent - active, _POINTS_PER_STEP, room.left)
    jobs = [_try_point(session, sweep, plan, tried + more) for more in range(wanted)]
    return {job.queue for job in jobs if job is not None}


def _count(session: Session, table: type[Job] | type[SweepPoint], *wanted: ColumnElement[bool]) -> int:
    return session.scalar(select(func.count()).select_from(table).where(*wanted)) or 0


def _try_point(session: Session, sweep: Sweep, plan: SweepSpec, number: int) -> Job | None:
    """Submit the job of one point; where its spec is refused, keep why and return None."""
    point = _point(session, sweep, plan, number)
    row = SweepPoint(sweep_id=sweep.id, number=number, parameters=point)
    try:
        spec = named(spec_of(plan.spec, point), sweep.name, number).as_json()
        unmet = _unmet(session, spec)
    except InvalidSpec as error:
        # A combination that no corner showed, or rules that have changed since the sweep was submitted.
        log.warning("point_refused", sweep=str(sweep.id), point=number, detail=str(error))
        row.refusal = str(error)
        session.add(row)
        session.flush()
        return None
    job = Job.submit(spec, user_id=sweep.user_id, unmet=unmet)
    job.sweep_id = sweep.id
    session.add(job)
    session.flush()
    session.execute(refresh_estimates([job.id]))
    row.job_id = job.id
    session.add_all([row, _audit(sweep, "job.submit", job.id)])
    session.flush()
    session.execute(notification(job.id))
    log.info("point_submitted", sweep=str(sweep.id), point=number, job=str(job.id))
    return job


def _unmet(session: Session, spec: dict[str, Any]) -> list[UUID]:
    """Return the jobs that a point's job has to wait for; raise InvalidSpec naming a bad reference.

    Whether the user may read them was asked when the sweep was submitted: they are the same for all its points.
    """
    ids = sorted(referenced_ids(spec))
    jobs = found(session.connection().exec_driver_sql(REFERENCED, {"ids": ids})) if ids else {}
    return unmet_of(spec, jobs, lambda owner: True)


def _point(session: Session, sweep: Sweep, plan: SweepSpec, number: int) -> Point:
    if isinstance(plan.parameters, Bayesian):
        return propose(plan.parameters, _tried(session, sweep, plan), maximizes=plan.maximizes)
    return next(islice(plan.parameters.every_point(), number, None))


def _tried(session: Session, sweep: Sweep, plan: SweepSpec) -> list[Tried]:
    """Return the points so far, in order, with what came of them."""
    best = {
        job_id: (epoch, value)
        for job_id, epoch, value in session.execute(
            best_values(sweep.id, plan.objective, maximizes=plan.maximizes)
        ).tuples()
    }
    rows = session.execute(
        select(SweepPoint.parameters, Job.id, Job.status, Job.reason)
        .outerjoin(Job, Job.id == SweepPoint.job_id)
        .where(SweepPoint.sweep_id == sweep.id)
        .order_by(SweepPoint.number)
    )
    tried = []
    for parameters, job_id, status, reason in rows:
        epoch, value = best.get(job_id, (None, None))
        tried.append(Tried(parameters, _outcome(status, reason), value, epoch))
    return tried


def _outcome(status: str | None, reason: str | None) -> Literal["succeeded", "stopped", "failed", "running"]:
    if status in (Status.CANCELLING, Status.CANCELLED) and reason == STOPPED_BY_SWEEP:
        return "stopped"
    if status is None or status in (Status.FAILED, Status.CANCELLED):
        return "failed"
    return "succeeded" if status == Status.SUCCEEDED else "running"


def _stop_early(session: Session, sweep: Sweep, plan: SweepSpec) -> None:
    """Ask those running jobs to stop that lose against the others by the sweep's rule."""
    rows = session.execute(
        select(Job.id, Job.status, Job.epochs, Job.timed_since > 1).where(Job.sweep_id == sweep.id).order_by(Job.id)
    ).all()
    jobs = {job_id: (status, epochs) for job_id, status, epochs, _ in rows}
    retried = {job_id for job_id, *_, is_retried in rows if is_retried}  # by a person, against the rule
    if all(status != Status.RUNNING for status, _ in jobs.values()):
        return
    all_curves = _curves(session, sweep, plan)
    finished = [curve for job_id, curve in all_curves.items() if jobs[job_id][0] == Status.SUCCEEDED]
    for job_id, (status, epochs) in jobs.items():
        if status == Status.RUNNING and job_id in all_curves and job_id not in retried:
            others = [curve for other, curve in all_curves.items() if other != job_id]
            lost = why_it_stops(plan, all_curves[job_id], epochs=epochs, finished=finished, others=others)
            if lost is not None:
                _stop(session, sweep, job_id, lost)


def _stop(session: Session, sweep: Sweep, job_id: UUID, message: str) -> None:
    job = session.scalars(select(Job).where(Job.id == job_id).with_for_update()).one()
    if job.stop_for_sweep(message):
        session.add(_audit(sweep, "job.cancel", job_id))
        session.execute(notification(job_id))
        log.info("job_stopped", job=str(job_id), detail=message)


def _audit(sweep: Sweep, action: str, job_id: UUID) -> AuditEntry:
    """Return the record of what is done in the name of the sweep's user, long after their request."""
    detail = {"sweep": str(sweep.id)}
    subject, request_id = f"job:{job_id}", f"sweep-{sweep.id}"
    return AuditEntry(user_id=sweep.user_id, action=action, subject=subject, request_id=request_id, detail=detail)


def _curves(session: Session, sweep: Sweep, plan: SweepSpec) -> dict[UUID, Curve]:
    rows = session.execute(curves(sweep.id, plan.objective)).tuples()
    return {
        job_id: Curve(dict(zip(epochs, values, strict=True)), dict(zip(epochs, recorded, strict=True)))
        for job_id, epochs, values, recorded in rows
    }
