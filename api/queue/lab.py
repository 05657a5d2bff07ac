"""What decides, besides its place in the line, when a waiting job runs: workers, limits, pauses, reservations."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Float, and_, cast, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.demand import Demand
from models.forecast import Place, Running, Waiting, wait_reason
from models.job import LIVE, Job, Status
from models.named_queue import NamedQueue
from models.records import Attempt
from models.share import Share
from models.wait_reason import WaitReason
from models.worker import Worker, WorkerState

_DEMAND = (Job.device, Job.gpus, Job.gpu_memory_bytes, Job.exclusive)
# What a Waiting is made of, the pauses apart.
WAITING = (Job.id, Job.user_id, Job.queue, Job.estimated_seconds, Job.unmet, *_DEMAND)


@dataclass(frozen=True)
class Lab:
    """The workers that take jobs with what they run, and what keeps jobs waiting while there is room."""

    places: Sequence[Place]
    running: int  # jobs, also those on workers that take no more
    paused: Collection[str]  # queues
    limits: Mapping[UUID, int]  # on the running jobs of those users who have one
    at_limit: Collection[UUID]
    reserved: Mapping[str, UUID]  # by the place's name, the job that it is held for

    def waiting(self, row: Any) -> Waiting:
        """Return the waiting job of a row with the columns WAITING."""
        held = WaitReason.WAITS_FOR_JOBS if row.unmet else WaitReason.QUEUE_PAUSED if row.queue in self.paused else None
        return Waiting(row.id, row.user_id, row.queue, _demand(row), row.estimated_seconds, held)

    def why(self, job: Waiting) -> WaitReason:
        """Return why a job waits."""
        return wait_reason(job, self.places, at_limit=job.user in self.at_limit, reserved=self.reserved)


async def read_lab(session: AsyncSession) -> Lab:
    """Read all of it; the session is to be one of one moment."""
    running = await _running(session)
    own = select(Share.user_id, Share.max_running).where(Share.max_running.is_not(None))
    limits = {user: most for user, most in await session.execute(own) if most is not None}
    runs = Counter(stay.user for _, stay in running)
    held = select(Job.reserved_by, Job.id).where(Job.status == Status.QUEUED, Job.reserved_by.is_not(None))
    return Lab(
        places=await _places(session, running),
        running=len(running),
        paused=frozenset(await session.scalars(select(NamedQueue.name).where(NamedQueue.paused_at.is_not(None)))),
        limits=limits,
        at_limit=frozenset(user for user, most in limits.items() if runs[user] >= most),
        reserved={place: job for place, job in await session.execute(held) if place is not None},
    )


async def _running(session: AsyncSession) -> list[tuple[str, Running]]:
    """Return what runs, each with the name of its worker."""
    ran = func.extract("epoch", func.now() - Attempt.started_at)
    remaining = cast(Job.estimated_seconds - ran, Float)  # null where there is no estimate
    query = select(Attempt.worker, Attempt.gpus.label("taken"), Job.user_id, *_DEMAND)
    query = query.add_columns(remaining.label("remaining"))
    its_attempt = and_(Attempt.job_id == Job.id, Attempt.number == Job.attempt)
    rows = await session.execute(query.join(Attempt, its_attempt).where(Job.status.in_(LIVE)))
    return [(row.worker, Running(_demand(row), row.taken, row.remaining, row.user_id)) for row in rows]


async def _places(session: AsyncSession, running: Sequence[tuple[str, Running]]) -> list[Place]:
    online = select(Worker).where(Worker.state() == WorkerState.ONLINE).order_by(Worker.name)
    return [
        worker.place([job for place, job in running if place == worker.name])
        for worker in await session.scalars(online)
    ]


def _demand(row: Any) -> Demand:
    return Demand(row.device, row.gpus, row.gpu_memory_bytes, row.exclusive)
