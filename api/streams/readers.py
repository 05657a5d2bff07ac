"""Readers of streams: each holds a place and takes what follows it, from memory or, where that is old, by replay."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol
from uuid import UUID

from api.access.caller import Caller
from api.problems import ProblemError
from api.services import Services
from api.streams import queries
from api.streams.backlog import Backlog
from api.streams.events import Event, Kind, LabEvent
from api.streams.fan_out import Waiter
from api.streams.lab import Lab
from api.streams.position import Position
from api.streams.replays import Replayed
from models.errors import JobNotFound

CHUNK_BYTES = 65_536  # taken at once; with uvicorn's buffer of the same size, all that a slow reader holds


class Reader(Protocol):
    """What a stream is sent from."""

    waiter: Waiter

    @property
    def event_id(self) -> str:
        """The id of the place that the reader has come to."""

    async def take(self) -> bytes | None:
        """Return what is to be sent next, None where that has to be waited for; raise EndOfStream after the last."""


class EndOfStream(Exception):
    """Everything was sent."""


class JobReader:
    """Follows one job."""

    def __init__(
        self,
        backlog: Backlog[Position, Event],
        waiter: Waiter,
        position: Position,
        kinds: frozenset[Kind],
        replay: Callable[[Position, Position], Awaitable[Replayed]],
    ) -> None:
        """Go on after a position that the backlog's place covers; `replay` reads on between two positions."""
        self.waiter = waiter
        self._backlog = backlog
        self._position = position
        self._kinds = kinds
        self._replay = replay
        self._ended = False

    @property
    def event_id(self) -> str:
        """The position."""
        return str(self._position)

    @property
    def has_all(self) -> bool:
        """Whether the job has ended and its last event was taken."""
        return self._backlog.place.closing > 0 and self._position.covers(self._backlog.place)

    async def take(self) -> bytes | None:
        """Return the next events, None where the next has not happened yet; raise EndOfStream after the last."""
        while not self._ended:
            events = self._backlog.after(self._position, CHUNK_BYTES)
            if events is None:
                events = await self._take_replayed()
            elif events:
                self._position = events[-1].position
            else:
                return None
            self._ended = bool(events) and self._is_the_end(events[-1])
            if wanted := b"".join(event.wire for event in events if self._is_wanted(event)):
                return wanted
        raise EndOfStream

    def _is_wanted(self, event: Event) -> bool:
        return self._is_the_end(event) if event.kind is Kind.END else event.kind in self._kinds

    def _is_the_end(self, event: Event) -> bool:
        """Tell whether a job has ended with this event; one that was tried again goes on behind its former end."""
        return event.kind is Kind.END and event.position.covers(self._backlog.place)

    async def _take_replayed(self) -> list[Event]:
        # No further than the backlog's place: who arrives there goes on from memory, with neither gap nor duplicate.
        events, self._position = await self._replay(self._position, self._backlog.place)
        return events


class LabReader:
    """Follows all jobs that its caller may read."""

    def __init__(self, lab: Lab, waiter: Waiter, caller: Caller, number: int | None, kinds: frozenset[Kind]) -> None:
        """Go on after an event's number; None is one that this process does not know."""
        self.waiter = waiter
        self.caller = caller
        self._lab = lab
        self._number = number
        self._kinds = kinds | {Kind.RESET}

    @property
    def event_id(self) -> str:
        """The number of the last event, whether or not it was for this caller."""
        return self._lab.id_of(self._lab.backlog.place if self._number is None else self._number)

    async def take(self) -> bytes | None:
        """Return the next events, None where the next has not happened yet."""
        while True:
            events = None if self._number is None else self._lab.backlog.after(self._number, CHUNK_BYTES)
            if events is None:
                self._number = self._lab.backlog.place
                return self._lab.reset().wire
            if not events:
                return None
            assert self._number is not None, "else there are no events"
            self._number += len(events)
            if wanted := b"".join(event.wire for event in events if self._is_for_caller(event)):
                return wanted

    def _is_for_caller(self, event: LabEvent) -> bool:
        return event.kind in self._kinds and self.caller.may_read(event.owner)


@asynccontextmanager
async def job_reader(
    services: Services, job_id: UUID, position: Position, kinds: frozenset[Kind]
) -> AsyncIterator[JobReader]:
    """Follow a job after a position; raise JobNotFound, or ProblemError for a position that it has not reached."""

    async def read(start: Position, upto: Position, limit: int) -> list[Event]:
        # Many readers may come at once: they take turns, and leave connections for other requests.
        async with services.readers, services.sessions() as session:
            await queries.in_one_snapshot(session)
            return await queries.events_after(session, job_id, start, upto=upto, limit=limit)

    waiter = Waiter()
    with services.streams.follow(job_id, waiter) as topic:
        # Another process may have told of more than this one has read.
        if topic.backlog is None or not topic.backlog.place.covers(position):
            await services.streams.read_now(job_id)
        if topic.backlog is None:
            raise JobNotFound(f"There is no job {job_id}.")
        if not topic.backlog.place.covers(position):
            raise unknown_event()
        replays = topic.replays
        yield JobReader(
            topic.backlog, waiter, position, kinds, lambda start, upto: replays.after(start, upto, read, CHUNK_BYTES)
        )


@asynccontextmanager
async def lab_reader(
    services: Services, caller: Caller, place: tuple[str, int] | None, kinds: frozenset[Kind]
) -> AsyncIterator[LabReader]:
    """Follow all jobs from now on, or after a place: the name of a `Lab` and a number in it."""
    waiter = Waiter()
    with services.streams.follow_all(waiter) as lab:
        if not lab.opened:
            await services.streams.read_now(None)
        number: int | None = lab.backlog.place
        if place is not None:
            number = place[1] if place[0] == lab.name else None
        yield LabReader(lab, waiter, caller, number, kinds)


def unknown_event() -> ProblemError:
    """Return what is answered to an id that is none of this stream."""
    return ProblemError(422, "invalid_event_id", "Last-Event-ID: this stream has no event with this id.")
