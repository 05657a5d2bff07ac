"""What is read for Prometheus: how the queue stands, and what has happened since the last look."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ARRAY, BigInteger, Float, bindparam, cast, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from models.job import FINAL, Job, Status
from models.named_queue import NamedQueue
from models.worker import Worker

_MOST_HAPPENINGS = 10_000  # at one look; what is more comes at the next


@dataclass(frozen=True)
class Standing:
    """How the queue stands."""

    jobs: Sequence[tuple[str, str, int]]  # by queue and status, of those that have not ended
    oldest: Sequence[tuple[str, float]]  # by queue: seconds that the oldest has waited for a worker
    workers: Mapping[str, tuple[int, int]]  # by state, where there are any: workers and their slots
    lost: int  # workers that fell silent within a day, and that nobody stopped


@dataclass(frozen=True)
class Happening:
    """A transition, or, where it has a `step`, a milestone."""

    id: int
    before: str | None
    to: str | None
    reason: str | None
    waited: float | None  # seconds that the job had waited for a worker
    step: str | None
    data: dict[str, Any]


_NEWEST = text("SELECT greatest((SELECT max(id) FROM transitions), (SELECT max(id) FROM milestones), 0)")
# A job that has lined up again since it was claimed no longer says since when it had waited.
_HAPPENINGS = text(
    """
    SELECT * FROM (
        (
            SELECT moves.id, from_status AS before, to_status AS to, moves.reason,
                CASE WHEN queued_at <= at THEN extract(epoch FROM at - queued_at)::float8 END AS waited,
                NULL AS step, NULL::jsonb AS data
            FROM transitions AS moves JOIN jobs ON jobs.id = job_id
            WHERE moves.id > :after AND moves.id <> ALL (:seen) ORDER BY moves.id LIMIT :limit
        )
        UNION ALL
        (
            SELECT steps.id, NULL, NULL, NULL, NULL, type, data
            FROM milestones AS steps
            WHERE steps.id > :after AND steps.id <> ALL (:seen) ORDER BY steps.id LIMIT :limit
        )
    ) AS happenings ORDER BY id LIMIT :limit
    """
).bindparams(bindparam("seen", type_=ARRAY(BigInteger)), limit=_MOST_HAPPENINGS)


async def standing(session: AsyncSession) -> Standing:
    """Return how the queue stands now."""
    open_jobs = Job.status.in_([status for status in Status if status not in FINAL])
    jobs = select(Job.queue, Job.status, func.count()).where(open_jobs).group_by(Job.queue, Job.status)
    waited = cast(func.extract("epoch", func.clock_timestamp() - func.min(Job.queued_at)), Float)
    is_paused = select(NamedQueue.name).where(NamedQueue.name == Job.queue, NamedQueue.paused_at.is_not(None)).exists()
    startable = (Job.status == Status.QUEUED) & (Job.unmet == 0) & ~is_paused
    workers = select(Worker.state().label("state"), Worker.slots).subquery()
    by_state = select(workers.c.state, func.count(), func.sum(workers.c.slots)).group_by(workers.c.state)
    # A host that is gone for good is told of for a day, not for ever.
    recent = Worker.heartbeat_at > func.clock_timestamp() - timedelta(days=1)
    lost = select(func.count()).select_from(Worker).where(Worker.stopped_at.is_(None), Worker.is_silent(), recent)
    return Standing(
        jobs=(await session.execute(jobs)).tuples().all(),
        oldest=(await session.execute(select(Job.queue, waited).where(startable).group_by(Job.queue))).tuples().all(),
        workers={state: (count, slots) for state, count, slots in await session.execute(by_state)},
        lost=(await session.scalars(lost)).one(),
    )


async def newest(session: AsyncSession) -> int:
    """Return the greatest id of what has happened so far."""
    return int((await session.scalars(_NEWEST)).one())


async def happenings(session: AsyncSession, *, after: int, seen: Collection[int]) -> list[Happening]:
    """Return what has happened with an id greater than `after`, but for what was `seen`, some of it if it is much."""
    rows = await session.execute(_HAPPENINGS, {"after": after, "seen": list(seen)})
    return [Happening(*row) for row in rows]
