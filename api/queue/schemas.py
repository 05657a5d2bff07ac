"""What is shown of the line of waiting jobs, and of the named queues."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel

from models.wait_reason import NoEstimate, WaitReason


class PlaceView(BaseModel):
    """A waiting job in its place of the line; `position` counts from 1 over the whole lab, whatever is asked for.

    It runs before others by `effective_priority` (its own, and a point more for each ageing period in which its user
    was not served), then by the `share` of its user: the seconds of GPUs (for a job of the CPU: of slots) that they
    have used, which fade with time, and those that their running jobs will have taken, divided by their weight.
    `ahead_by_share` names ten at most of those who, at the same effective priority and for the same kind of device,
    are ahead because they have less. `starts_at` and `finishes_at` are estimates; where one of them is null,
    `no_estimate` says why.
    """

    position: int
    job_id: UUID
    name: str | None
    user: str
    queue: str
    priority: int
    effective_priority: int
    share: float
    ahead_by_share: list[str]
    queued_at: datetime
    reason: WaitReason
    message: str
    starts_at: datetime | None
    finishes_at: datetime | None
    no_estimate: NoEstimate | None


class FreeSlots(BaseModel):
    """Slots in which nothing runs: of workers with GPUs, and of those without."""

    gpu: int
    cpu: int


class LineTotals(BaseModel):
    """Jobs of the whole lab that wait and run, and the free slots of the workers that take jobs."""

    waiting: int
    running: int
    free_slots: FreeSlots


class LinePage(BaseModel):
    """The line as it stood at `as_of`; `next` is the `after` of the following page, null at the end."""

    as_of: datetime
    totals: LineTotals
    items: list[PlaceView]
    next: int | None


class QueueView(BaseModel):
    """A queue: how many jobs wait in it and run from it, who has paused it, and the workers that take jobs from it."""

    name: str
    waiting: int
    running: int
    paused_at: datetime | None
    paused_by: str | None
    workers: list[str]


class QueuePage(BaseModel):
    """Queues by name; `next` is the `after` of the following page, null at the end."""

    items: list[QueueView]
    next: str | None
