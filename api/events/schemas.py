"""What is shown of a job's events, and what each kind of event is called."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel

from models.job import FINAL, LIVE, Status
from models.milestone import Step
from models.reasons import OUT_OF_MEMORY, PREEMPTED, WORKER_LOST


class EventType(StrEnum):
    """What happened."""

    SUBMITTED = "submitted"  # the job was stored, and waits
    CLAIMED = "claimed"  # a worker has taken it: a new attempt
    STARTED = Step.STARTED.value
    EPOCH = Step.EPOCH.value
    CHECKPOINT = Step.CHECKPOINT.value
    CHECKPOINT_SKIPPED = Step.CHECKPOINT_SKIPPED.value
    LEASE_LOST = (
        Step.LEASE_LOST.value
    )  # its worker was lost; with a status it waits for another, else what comes of it follows
    PREEMPTED = "preempted"  # its slot was wanted, and it waits for another
    OUT_OF_MEMORY = "out_of_memory"  # a GPU that it shared had too little memory, and it waits for one of its own
    RETRIED = "retried"  # it waits again, after a failure or at a person's wish
    PAUSING = "pausing"  # a pause is asked for
    PAUSED = "paused"
    RESUMED = "resumed"  # it waits, or runs, again after a pause, or instead of one
    CANCELLING = "cancelling"  # a cancel is asked for
    FINISHED = "finished"  # it has ended: `status` says how


_BY_STATUS = {
    Status.PAUSING: EventType.PAUSING,
    Status.PAUSED: EventType.PAUSED,
    Status.CANCELLING: EventType.CANCELLING,
    **dict.fromkeys(FINAL, EventType.FINISHED),
}
_BACK_IN_QUEUE = {
    WORKER_LOST: EventType.LEASE_LOST,
    PREEMPTED: EventType.PREEMPTED,
    OUT_OF_MEMORY: EventType.OUT_OF_MEMORY,
}
_OF_STEP = {
    Step.STARTED: "The runner works.",
    Step.EPOCH: "Epoch {epoch} is recorded.",
    Step.CHECKPOINT: "The checkpoint of epoch {epoch} is on disk.",
    Step.LEASE_LOST: "The worker was lost.",
    Step.CHECKPOINT_SKIPPED: "The checkpoint of epoch {epoch} was passed over for an older one: {why}",
}


def type_of_move(before: Status | None, to: Status, reason: str | None) -> EventType:
    """Return what a change of status is called."""
    if before is None:
        return EventType.SUBMITTED
    if to is Status.RUNNING:
        return EventType.CLAIMED if before is Status.QUEUED else EventType.RESUMED
    if to is not Status.QUEUED:
        return _BY_STATUS[to]
    if before is Status.PAUSED:
        return EventType.RESUMED
    return _BACK_IN_QUEUE.get(reason or "", EventType.RETRIED) if before in LIVE else EventType.RETRIED


class EventView(BaseModel):
    """One event; `status`, `reason` are of a change of status, `epoch` and `data` of what an attempt did.

    `attempt` is the newest one by then, 0 before the first.
    """

    id: int
    type: EventType
    at: datetime
    attempt: int
    message: str | None
    status: Status | None
    reason: str | None
    epoch: int | None
    data: dict[str, Any]

    @classmethod
    def of(cls, row: Any) -> "EventView":
        """Show a row of `queries.page`."""
        return cls(
            id=row.id,
            type=_type_of(row),
            at=row.at,
            attempt=row.attempt,
            message=row.message if row.type is None else _OF_STEP[Step(row.type)].format(epoch=row.epoch, **row.data),
            status=row.to_status,
            reason=row.reason,
            epoch=row.epoch,
            data=row.data or {},
        )


def _type_of(row: Any) -> EventType:
    if row.type is not None:
        return EventType(row.type)
    before = None if row.from_status is None else Status(row.from_status)
    return type_of_move(before, Status(row.to_status), row.reason)


class EventPage(BaseModel):
    """Events, oldest first; `next` is the `after` of the following page, null at the end.

    Whoever wants to hear more asks again, with the last event's `id` as `after`.
    """

    items: list[EventView]
    next: int | None
