"""An event as it is sent: its kind, its JSON body, its id; written out once, however many read it."""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from api.streams.position import Position


class Kind(StrEnum):
    """What an event tells of."""

    STATUS = "status"  # the job changed its status
    EPOCH = "epoch"  # an epoch was recorded, or recorded again by a later attempt
    LOG = "log"  # the runner printed something
    DIAGNOSIS = "diagnosis"  # a finding of the result
    END = "end"  # the final status; nothing follows unless the job is tried again
    RESET = "reset"  # the lab's stream has a gap here: read /jobs again


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job, and where a reader stands after it."""

    kind: Kind
    body: bytes
    position: Position
    wire: bytes

    @classmethod
    def of(cls, kind: Kind, body: bytes, position: Position) -> "Event":
        """Write out a JSON object."""
        return cls(kind, body, position, written(kind, body, str(position)))


@dataclass(frozen=True, slots=True)
class LabEvent:
    """An event in the stream of all jobs."""

    kind: Kind
    owner: UUID
    wire: bytes

    @classmethod
    def of(cls, event: Event, job_id: UUID, owner: UUID, event_id: str) -> "LabEvent":
        """Write out a job's event again, with the job that it is about."""
        body = b'{"job":"%s",%s' % (str(job_id).encode(), event.body[1:])
        return cls(event.kind, owner, written(event.kind, body, event_id))


def written(kind: Kind, body: bytes, event_id: str) -> bytes:
    """Return an event as the browsers' standard has it; the body has no line breaks."""
    return f"id: {event_id}\nevent: {kind.value}\ndata: ".encode() + body + b"\n\n"
