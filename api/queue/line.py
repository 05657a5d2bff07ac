"""The line of waiting jobs: worked out from one moment of the database, once in some seconds at most, for all requests.

Of a long line the first thousand are played forward over the workers; of those behind them the place is known.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, LargeBinary, Select, Subquery, cast, func, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from api.jobs.schemas import JobQueue
from api.queue.lab import WAITING, Lab, read_lab
from api.queue.schemas import FreeSlots, LineTotals, PlaceView
from api.streams.queries import in_one_snapshot
from models.database import database_now
from models.forecast import Waiting
from models.job import Job, Status
from models.line import waiting_line
from models.schedule import Slot, schedule
from models.settings import Settings
from models.user import User
from models.wait_reason import NoEstimate, WaitReason

FIRST = 1_000  # that are played forward
KEPT_SECONDS = 2.0
_ID_BYTES = 16
_MOST_AHEAD = 10  # names
_NOTHING = dict.fromkeys(set(JobQueue.model_fields) - {"name"})


@dataclass(frozen=True)
class Queued:
    """A waiting job and its place in the line."""

    job: Waiting
    position: int
    name: str | None
    user: str
    priority: int
    effective_priority: int
    share: float
    pool: str
    queued_at: datetime


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


@dataclass(frozen=True)
class Standing:
    """The line as it stood at one moment."""

    as_of: datetime
    lab: Lab
    first: Sequence[Queued]
    slots: Mapping[UUID, Slot]  # of the first
    order: bytes  # the ids of all, one after the other

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return len(self.order) // _ID_BYTES

    @property
    def totals(self) -> LineTotals:
        """Return how many jobs wait and run, and how many slots are free."""
        free: Counter[bool] = Counter()
        for place in self.lab.places:
            free[place.has_gpus] += max(0, place.slots - len(place.running))
        slots = FreeSlots(gpu=free[True], cpu=free[False])
        return LineTotals(waiting=self.waiting, running=self.lab.running, free_slots=slots)

    def position(self, job_id: UUID) -> int | None:
        """Return the place of a job in the line, from 1; None where it was not in it."""
        found = self.order.find(job_id.bytes)
        while found % _ID_BYTES and found >= 0:  # the end of one id and the beginning of the next
            found = self.order.find(job_id.bytes, found + 1)
        return found // _ID_BYTES + 1 if found >= 0 else None

    def in_queue(self, job: Waiting) -> JobQueue:
        """Return what is shown of a waiting job's queue."""
        position = self.position(job.id)
        return JobQueue(name=job.queue, position=position, **self._why_and_when(job, is_in_line=position is not None))

    def view(self, queued: Queued, *, names_others: bool) -> PlaceView:
        """Return what is shown of a job in its place."""
        return PlaceView(
            position=queued.position,
            job_id=queued.job.id,
            name=queued.name,
            user=queued.user,
            queue=queued.job.queue,
            priority=queued.priority,
            effective_priority=queued.effective_priority,
            share=queued.share,
            ahead_by_share=self._ahead_by_share(queued) if names_others else [],
            queued_at=queued.queued_at,
            **self._why_and_when(queued.job, is_in_line=True),
        )

    def _why_and_when(self, job: Waiting, *, is_in_line: bool) -> dict[str, Any]:
        slot = self.slots.get(job.id)
        if slot is None:
            slot = Slot(None, None, NoEstimate.TOO_FAR_BACK if is_in_line else NoEstimate.NOT_WORKED_OUT)
        reason = self.lab.why(job)
        return {
            "reason": reason,
            "message": _message(reason, slot.no_estimate),
            "starts_at": self._at(slot.starts_in),
            "finishes_at": self._at(slot.finishes_in),
            "no_estimate": slot.no_estimate,
        }

    def _ahead_by_share(self, queued: Queued) -> list[str]:
        """Return the names of others who are ahead by nothing but a smaller share, the smallest first."""
        firsts = self._firsts[queued.pool, queued.effective_priority]
        ahead = ((share, user) for user, (position, share) in firsts.items() if position < queued.position)
        return [user for share, user in sorted(ahead)[:_MOST_AHEAD] if share < queued.share and user != queued.user]

    @cached_property
    def _firsts(self) -> Mapping[tuple[str, int], Mapping[str, tuple[int, float]]]:
        """Position and share of each user's first job, by its kind of device and effective priority."""
        firsts: dict[tuple[str, int], dict[str, tuple[int, float]]] = defaultdict(dict)
        for queued in self.first:
            alike = firsts[queued.pool, queued.effective_priority]
            alike.setdefault(queued.user, (queued.position, queued.share))
        return firsts

    def _at(self, seconds: float | None) -> datetime | None:
        return None if seconds is None else self.as_of + timedelta(seconds=seconds)


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
                self._kept_until = time.monotonic() + KEPT_SECONDS
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
        if len(found) < limit and standing.waiting > FIRST:
            line = waiting_line(self._settings).subquery("line")
            query = _queued(line).where(line.c.position > max(after, FIRST), *wanted.conditions())
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
            first = [_as_queued(row, lab) for row in await session.execute(_queued(line).limit(FIRST))]
            order = b"".join(queued.job.id.bytes for queued in first)
            if len(first) == FIRST:
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
    ends = row.began + timedelta(seconds=row.estimated_seconds)
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


def _message(reason: WaitReason, no_estimate: NoEstimate | None) -> str:
    """Return both as sentences; they may be one."""
    if no_estimate is None or no_estimate.sentence == reason.sentence or no_estimate == reason.value:
        return reason.sentence
    return f"{reason.sentence} {no_estimate.sentence}"
