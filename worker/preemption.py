"""Which running job makes room for a waiting one of higher priority: a pure rule, and its rows.

The job that is asked stops at the end of its epoch, with a checkpoint, and waits again; nothing of it is lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

import structlog
from sqlalchemy import Row, and_, exists, func, select, update
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import Session, aliased

from models.demand import Demand
from models.forecast import Place, Running, earliest_start
from models.job import LIVE, Job, Status, database_now_plus, notification
from models.named_queue import NamedQueue
from models.records import Attempt
from models.share import Share
from models.worker import Worker, WorkerState

log = structlog.get_logger(__name__)

_MOST_WAITING = 200  # different ones, of the highest priority, looked at in one step


@dataclass(frozen=True)
class Wanting:
    """A job that has waited for long enough."""

    id: UUID
    priority: int
    queue: str
    demand: Demand


@dataclass(frozen=True)
class Holder:
    """A job that runs on the worker of this name, for so many seconds now."""

    id: UUID
    priority: int
    place: str
    seconds: float
    running: Running


def who_yields(job: Wanting, places: Sequence[Place], holders: Sequence[Holder]) -> UUID | None:
    """Return the running job whose end alone lets `job` start: of the lowest priority, then the one begun last.

    It has a lower priority than `job`; None where there is none, or where `job` fits without it.
    """
    serving = {place.name: place for place in places if job.queue in place.queues}
    if any(earliest_start(place, job.demand) == 0 for place in serving.values()):
        return None
    able = [
        holder
        for holder in holders
        if holder.priority < job.priority
        and holder.place in serving
        and earliest_start(_without(serving[holder.place], holder), job.demand) == 0
    ]
    return min(able, key=lambda holder: (holder.priority, holder.seconds)).id if able else None


def make_room(session: Session, *, wait_seconds: float) -> UUID | None:
    """Ask one running job to yield to one that has waited so long, and return it; withdraw what is needed no more."""
    _withdraw(session)
    waiting = _waiting(session, wait_seconds)
    if not waiting:
        return None
    holders = _holders(session)
    places = _places(session, holders)
    askable = [holder for holder, yields in holders if not yields]
    for job in waiting:
        chosen = who_yields(job, places, askable)
        if chosen is not None and _ask(session, chosen, job.id):
            log.info("preemption", job=str(chosen), yields_to=str(job.id))
            return chosen
    return None


def _without(place: Place, holder: Holder) -> Place:
    return replace(place, running=[running for running in place.running if running is not holder.running])


def _withdraw(session: Session) -> None:
    other = aliased(Job)
    still_waits = exists().where(other.id == Job.yields_to, other.status == Status.QUEUED.value)
    asked = (Job.status == Status.RUNNING.value, Job.yields_to.is_not(None))
    session.execute(
        update(Job).where(*asked, ~still_waits).values(yields_to=None).execution_options(synchronize_session=False)
    )


def _waiting(session: Session, seconds: float) -> list[Wanting]:
    """Return the jobs that have waited so long, that neither a limit nor a pause holds back, and nobody yields to.

    A worker serves their queues, and of those that ask for the same it is the first: what holds of it holds of all.
    """
    running, yielding = aliased(Job), aliased(Job)
    is_of_user = (running.user_id == Job.user_id, running.status.in_(LIVE))
    at_limit = exists().where(
        Share.user_id == Job.user_id,
        Share.max_running <= select(func.count()).select_from(running).where(*is_of_user).scalar_subquery(),
    )
    paused = exists().where(NamedQueue.name == Job.queue, NamedQueue.paused_at.is_not(None))
    served = exists().where(Worker.state() == WorkerState.ONLINE, Job.queue == Worker.queues.any_())
    has_one = exists().where(yielding.yields_to == Job.id, yielding.status.in_(LIVE))
    same = (Job.priority.desc(), Job.queue, *_DEMAND)
    rows = session.execute(
        select(Job.id, Job.priority, Job.queue, *_DEMAND)
        .ext(distinct_on(Job.priority, Job.queue, *_DEMAND))
        .where(Job.status == Status.QUEUED, Job.unmet == 0, Job.queued_at <= database_now_plus(-seconds))
        .where(~at_limit, ~paused, ~has_one, served)
        .order_by(*same, Job.id)
        .limit(_MOST_WAITING)
    )
    return [Wanting(row.id, row.priority, row.queue, _demand(row)) for row in rows]


def _holders(session: Session) -> list[tuple[Holder, bool]]:
    """Return what runs, each with whether it stops already."""
    ran = func.extract("epoch", func.clock_timestamp() - Attempt.started_at)
    rows = session.execute(
        select(
            *(Job.id, Job.priority, Job.status, Job.yields_to, Attempt.worker, Attempt.gpus.label("taken")),
            ran.label("seconds"),
            *_DEMAND,
        )
        .join(Attempt, and_(Attempt.job_id == Job.id, Attempt.number == Job.attempt))
        .where(Job.status.in_(LIVE))
    )
    return [
        (
            Holder(row.id, row.priority, row.worker, float(row.seconds), Running(_demand(row), row.taken, None)),
            row.status != Status.RUNNING or row.yields_to is not None,
        )
        for row in rows
    ]


def _places(session: Session, holders: Sequence[tuple[Holder, bool]]) -> list[Place]:
    return [
        worker.place([holder.running for holder, _ in holders if holder.place == worker.name])
        for worker in session.scalars(select(Worker).where(Worker.state() == WorkerState.ONLINE))
    ]


def _ask(session: Session, job_id: UUID, yields_to: UUID) -> bool:
    """Ask a job to yield; return False where it does not run any more."""
    asked = session.execute(
        update(Job)
        .where(Job.id == job_id, Job.status == Status.RUNNING.value, Job.yields_to.is_(None))
        .values(yields_to=yields_to)
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    if asked.first() is None:
        return False
    session.execute(notification(job_id))
    return True


_DEMAND = (Job.device, Job.gpus.label("wanted_gpus"), Job.gpu_memory_bytes, Job.exclusive)


def _demand(row: Row[*tuple[object, ...]]) -> Demand:
    return Demand(row.device, row.wanted_gpus, row.gpu_memory_bytes, row.exclusive)
