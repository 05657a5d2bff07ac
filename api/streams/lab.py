"""The stream of all jobs in one process: how far each job has been read, and the newest events of all."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from secrets import token_hex
from uuid import UUID

from sqlalchemy import ColumnElement, or_
from sqlalchemy.ext.asyncio import AsyncSession

from api.streams import queries
from api.streams.backlog import Backlog
from api.streams.events import Event, Kind, LabEvent, written
from api.streams.position import Position
from api.streams.queries import Standing
from api.streams.schemas import ResetView
from models.job import FINAL, Job

_MOST_EVENTS = 8_192
_MOST_BYTES = 4_194_304
# A job may be stored this long after the time that it says it was created at; statements end after 10 s.
_LONGEST_TRANSACTION = timedelta(minutes=1)


@dataclass
class _Tail:
    """How far one job has been read."""

    owner: UUID
    began_at: datetime | None  # None: it was tried again, and the next survey says that it was before
    position: Position
    ended: bool = False
    left_out: bool = False  # it could not be read, which its readers were told


class Lab:
    """Numbers the events of all jobs as this process learns of them; a job is known from its first event on.

    The numbers mean nothing to another process, so `name` is part of the ids; whoever comes with another's is reset.
    """

    def __init__(self) -> None:
        """Nothing is known before the first `survey`."""
        self.name = token_hex(8)
        self.opened = False
        self.backlog: Backlog[int, LabEvent] = Backlog(0, most=_MOST_EVENTS, most_bytes=_MOST_BYTES)
        self._tails: dict[UUID, _Tail] = {}
        self._since = datetime.min.replace(
            tzinfo=UTC
        )  # of a job that began before and is not known, nothing is told: it had ended

    def position_of(self, job_id: UUID) -> Position | None:
        """Return how far a job has been read, None where it is not known."""
        tail = self._tails.get(job_id)
        return tail.position if tail else None

    def take_in(self, standing: Standing) -> Position | None:
        """Know a job that began lately, or again, from there on; return None for one that had ended before."""
        if standing.began_at <= self._since:
            return None
        return self._know(standing, standing.beginning).position

    def publish(self, job_id: UUID, event: Event) -> None:
        """Number the next event of a job that is known; of others nothing is told."""
        tail = self._tails.get(job_id)
        if tail is not None:
            number = self.backlog.place + 1
            self.backlog.append(number, LabEvent.of(event, job_id, tail.owner, self.id_of(number)))
            if tail.ended:
                tail.began_at = None
            tail.position, tail.ended, tail.left_out = event.position, event.kind is Kind.END, False

    def leave_out(self, job_id: UUID) -> None:
        """Tell once of a gap for a job that cannot be read: `survey` passes over it until there is news of it."""
        tail = self._tails.get(job_id)
        if tail is not None and not tail.left_out:
            tail.left_out = True
            number = self.backlog.place + 1
            self.backlog.append(number, _reset(tail.owner, self.id_of(number)))

    async def survey(self, session: AsyncSession, being_read: dict[UUID, Position]) -> list[UUID]:
        """Return the jobs of which something is not read; at first know all that have not ended, as read so far.

        `being_read` says how far others in this process have read some jobs.
        """
        now = await queries.database_time(session)
        found = {standing.job_id: standing for standing in await queries.standings(session, self._may_have_news(now))}
        behind = []
        for standing in found.values():
            tail = self._tails.get(standing.job_id)
            if tail is None:
                end = being_read.get(standing.job_id, standing.position)
                tail = self._know(standing, standing.beginning if self.opened else end)
            if not tail.left_out and not tail.position.covers(standing.position):
                behind.append(standing.job_id)
        behind += [
            job_id
            for job_id, tail in self._tails.items()
            if not tail.ended and not tail.left_out and job_id not in found
        ]
        self._forget_ended(now)
        self.opened = True
        return behind

    def id_of(self, number: int) -> str:
        """Return the id of the event with this number."""
        return f"{self.name}-{number}"

    def reset(self) -> LabEvent:
        """Return the event that tells of a gap before what comes next."""
        return _reset(UUID(int=0), self.id_of(self.backlog.place))

    def _know(self, standing: Standing, position: Position) -> _Tail:
        tail = _Tail(standing.owner, standing.began_at, position, ended=position.closing > 0)
        self._tails[standing.job_id] = tail
        return tail

    def _may_have_news(self, now: datetime) -> ColumnElement[bool]:
        since = self._since if self.opened else now - _LONGEST_TRANSACTION
        return or_(Job.status.not_in(FINAL), Job.created_at > since)

    def _forget_ended(self, now: datetime) -> None:
        """Forget jobs that have ended and began too long ago to be taken for new ones."""
        self._since = now - _LONGEST_TRANSACTION
        kept = dict[UUID, _Tail]()
        for job_id, tail in self._tails.items():
            tail.began_at = tail.began_at or now
            if not tail.ended or tail.began_at > self._since:
                kept[job_id] = tail
        self._tails = kept


def _reset(owner: UUID, event_id: str) -> LabEvent:
    return LabEvent(Kind.RESET, owner, written(Kind.RESET, ResetView().model_dump_json().encode(), event_id))
