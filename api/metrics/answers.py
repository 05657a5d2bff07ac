"""Answers kept in memory: where succeeded jobs stand, and bodies by their entity tags, the least used dropped first."""

import hashlib
from dataclasses import dataclass, field
from uuid import UUID

from api.kept import Kept
from api.metrics.negotiation import MediaType
from api.metrics.queries import Standing

_FORMAT = "1"  # to be changed with the way in which answers are written: tags of the old way must not match
_MOST_BYTES = 64 * 1_048_576
_MOST_JOBS = 10_000
_OVERHEAD_BYTES = 512  # of an entry, about


@dataclass(frozen=True)
class Question:
    """What is asked about a job's curves; with a `Standing` it settles every byte of the answer."""

    job_id: UUID
    after: int
    names: tuple[str, ...]
    max_points: int | None
    media_type: MediaType
    gzip: bool

    def tag(self, standing: Standing) -> str:
        """Return the strong entity tag of the answer."""
        told = (standing.status, standing.attempt, standing.revision)
        asked = (self.job_id, self.after, self.names, self.max_points, self.media_type, self.gzip)
        return f'"{hashlib.blake2b(repr((_FORMAT, told, asked)).encode(), digest_size=16).hexdigest()}"'


@dataclass(frozen=True)
class Body:
    """The bytes of an answer and the headers that belong to them alone."""

    content: bytes
    headers: dict[str, str] = field(default_factory=dict)


class Answers:
    """What one process keeps; it is never stale: a job that has succeeded is not changed, nor is the body of a tag.

    One that has failed or was cancelled may be tried again, which another process may hear of before this one. One that
    is deleted is forgotten as soon as this process hears of it.
    """

    def __init__(self) -> None:
        """Keep nothing yet."""
        self._settled: Kept[UUID, Standing] = Kept(_MOST_JOBS)
        self._bodies: Kept[str, Body] = Kept(_MOST_BYTES)
        self.doubts = 0  # how often something was forgotten: what was read before one of them is not to be remembered

    def settled(self, job_id: UUID) -> Standing | None:
        """Return where a job stands that is known to have succeeded."""
        return self._settled.get(job_id)

    def remember(self, standing: Standing, doubts: int) -> None:
        """Keep where a job stands, if that is for ever; `doubts` is what it was before that was read."""
        if standing.settled and doubts == self.doubts:
            self._settled.put(standing.job_id, standing, 1)

    def forget(self, job_id: UUID | None) -> None:
        """Read anew where a job stands, or with None where any does: it may have been deleted."""
        self.doubts += 1
        if job_id is None:
            self._settled = Kept(_MOST_JOBS)
        else:
            self._settled.drop(job_id)

    def body(self, tag: str) -> Body | None:
        """Return the body with this entity tag."""
        return self._bodies.get(tag)

    def keep(self, tag: str, body: Body) -> None:
        """Keep a body, unless it would take the room of many others."""
        self._bodies.put(tag, body, len(body.content) + _OVERHEAD_BYTES)
