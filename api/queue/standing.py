"""The line as it stood at one moment: the place of each job, and what is shown of it."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any
from uuid import UUID

from api.jobs.schemas import JobQueue
from api.queue.lab import Lab
from api.queue.schemas import FreeSlots, LineTotals, PlaceView
from models.forecast import Waiting
from models.schedule import Slot
from models.wait_reason import NoEstimate, WaitReason

_ID_BYTES = 16
_MOST_AHEAD = 10  # names


_FARTHEST_SECONDS = 1e10  # some three hundred years: nobody waits for it, and no date is beyond the year 9999


def moment_after(since: datetime, seconds: float) -> datetime:
    """Return the moment so many seconds later, or the farthest that is told."""
    return since + timedelta(seconds=min(seconds, _FARTHEST_SECONDS))


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
        return None if seconds is None else moment_after(self.as_of, seconds)


def _message(reason: WaitReason, no_estimate: NoEstimate | None) -> str:
    """Return both as sentences; they may be one."""
    if no_estimate is None or no_estimate.sentence == reason.sentence or no_estimate == reason.value:
        return reason.sentence
    return f"{reason.sentence} {no_estimate.sentence}"
