"""The line of waiting jobs: worked out from one moment of the database, once in some seconds at most, for all requests.

Of a long line the first thousand are played forward over the workers; of those behind them the place is known.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, LargeBinary, Select, Subquery, cast, func, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from api.jobs.schemas import JobQueue
from api.queue.lab import WAITING, Lab, read_lab
from api.queue.standing import Queued, Standing, moment_after
from api.streams.queries import in_one_snapshot
from models.database import database_now
from models.job import Job, Status
from models.line import waiting_line
from models.schedule import schedule
from models.settings import Settings
from models.user import User
from models.wait_reason import NoEstimate

_FIRST = 1_000  # that are played forward
_KEPT_SECONDS = 2.0
_NOTHING = dict.fromkeys(set(JobQueue.model_fields) - {"name"})


@dataclass(frozen=True)
class Wanted:
    """Which jobs of the line are asked for: of a queue, of a user by name, of an owner; None: of any."""

    queue: str | None
    user: str | None
    owner: UUID | None

    def holds(self, queued: Queued) -> bool:
        """Tell whether this job is asked for."""
        named = self.queue in (None, queued.job.queue) and self.user in (None, queued.user)
        return named and self.owner in (None, queued.job.user)

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return the same in SQL."""
        asked = {Job.queue: self.queue, User.name: self.user, Job.user_id: self.owner}
        return [column == value for column, value in asked.items() if value is not None]


class Line:
    """The line as one process has worked it out last."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession], settings: Settings) -> None:
        """Nothing is worked out before it is asked for."""
        self._sessions = sessions
        self._settings = settings
        self._turn = asyncio.Lock()
        self._kept: Standing | None = None
        self._kept_until = 0.0

    async def standing(self) -> Standing:
        """Return the line; one request works it out while the others wait for what it finds."""
        async with self._turn:
            if self._kept is None or time.monotonic() >= self._kept_until:
                self._kept = await self._work_out()
                self._kept_until = time.monotonic() + _KEPT_SECONDS
            return self._kept

    async def of_job(self, status: Status, row: Any) -> JobQueue:
        """Return what is shown of the queue of a job: a row of WAITING, `now`, and `began`, its attempt's start."""
        if status is Status.QUEUED:
            standing = await self.standing()
            return standing.in_queue(standing.lab.waiting(row))
        shown = JobQueue(name=row.queue, **_NOTHING)
        return shown.model_copy(update=_while_it_runs(row)) if status is Status.RUNNING else shown

    async def page(self, wanted: Wanted, *, after: int, limit: int) -> tuple[Standing, list[Queued]]:
        """Return at most `limit` jobs behind the position `after`, and the line that they stand in.

        For those behind the first thousand the database works out the order of all, as it is now.
        """
        standing = await self.standing()
        found = [queued for queued in standing.first if queued.position > after and wanted.holds(queued)][:limit]
        if len(found) < limit and standing.waiting > _FIRST:
            line = waiting_line(self._settings).subquery("line")
            query = _queued(line).where(line.c.position > max(after, _FIRST), *wanted.conditions())
            async with self._sessions() as session:
                more = await session.execute(query.limit(limit - len(found)))
                found += [_as_queued(row, standing.lab) for row in more]
        return standing, found

    async def _work_out(self) -> Standing:
        line = waiting_line(self._settings).subquery("line")
        async with self._sessions.begin() as session:
            await in_one_snapshot(session)
            as_of = await database_now(session)
            lab = await read_lab(session)
            first = [_as_queued(row, lab) for row in await session.execute(_queued(line).limit(_FIRST))]
            order = b"".join(queued.job.id.bytes for queued in first)
            if len(first) == _FIRST:
                order = (await session.scalars(_order(line))).one()
        # In a thread: a thousand jobs on many workers would hold up everybody else's answers.
        line_of_jobs = [queued.job for queued in first]
        slots = await asyncio.to_thread(schedule, lab.places, line_of_jobs, limits=lab.limits, reserved=lab.reserved)
        return Standing(as_of, lab, first, slots, order)


def _order(line: Subquery) -> Select[bytes]:
    """Return the query of all ids of a line, one after the other: a hundred thousand as one value."""
    in_order = aggregate_order_by(cast(b"", LargeBinary), line.c.position)
    return select(func.string_agg(func.uuid_send(line.c.id), in_order, type_=LargeBinary))


def _while_it_runs(row: Any) -> dict[str, Any]:
    if row.estimated_seconds is None:
        return {"starts_at": row.began, "no_estimate": NoEstimate.NOT_MEASURED}
    ends = moment_after(row.began, row.estimated_seconds)
    if ends < row.now:
        return {"starts_at": row.began, "no_estimate": NoEstimate.OVERDUE}
    return {"starts_at": row.began, "finishes_at": ends}


def _queued(line: Subquery) -> Select[Any]:
    """Return the query of the jobs of a line, in their order."""
    place = (line.c.position, line.c.effective_priority, line.c.share, line.c.pool)
    query = select(*WAITING, *place, Job.name, Job.priority, Job.queued_at, User.name.label("user"))
    return query.join(Job, Job.id == line.c.id).join(User, User.id == Job.user_id).order_by(line.c.position)


def _as_queued(row: Any, lab: Lab) -> Queued:
    return Queued(
        job=lab.waiting(row),
        position=row.position,
        name=row.name,
        user=row.user,
        priority=row.priority,
        effective_priority=row.effective_priority,
        share=row.share,
        pool=row.pool,
        queued_at=row.queued_at,
    )
