"""What is to be read for the streams: one job after another, each once however often it was asked for."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn
from uuid import UUID

import structlog

from api.problems import ProblemError
from api.streams.failures import is_lost, is_slow

log = structlog.get_logger(__name__)

_OPENING_SECONDS = 5.0
_RETRY_SECONDS = 1.0
_REST_SECONDS = 15.0  # what cannot be read, or not in time, is left alone so long


class Agenda:
    """The jobs that have news, in the order of their news; None among them stands for a survey of all jobs."""

    def __init__(self, read: Callable[[UUID | None], Awaitable[bool]], give_up: Callable[[UUID | None], None]) -> None:
        """Read by `read`, which returns whether anybody wants to know; `give_up` is told what cannot be read at all."""
        self._read = read
        self._give_up = give_up
        self._to_read: dict[UUID | None, None] = {}  # in order
        self._to_ask_again: set[UUID | None] = set()
        self._resting: set[UUID | None] = set()  # could not be read a short while ago
        self._read_by: dict[UUID | None, list[asyncio.Future[None]]] = {}
        self._something_to_read = asyncio.Event()

    def ask(self, job_id: UUID | None) -> None:
        """Let a job be read soon, unless that failed a short while ago."""
        if job_id not in self._resting:
            self._to_read[job_id] = None
            self._something_to_read.set()

    async def read_now(self, job_id: UUID | None) -> None:
        """Return when a job has been read anew; raise ProblemError (503) where it cannot be."""
        if job_id in self._resting:
            raise _unreadable()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._read_by.setdefault(job_id, []).append(done)
        self.ask(job_id)
        try:
            async with asyncio.timeout(_OPENING_SECONDS):
                await done
        except TimeoutError:
            retry = {"Retry-After": "1"}
            raise ProblemError(503, "database_unavailable", "The database does not answer.", retry) from None

    async def work(self) -> NoReturn:
        """Read what is asked for, until cancelled."""
        while True:
            await self._something_to_read.wait()
            self._something_to_read.clear()
            while self._to_read:
                job_id = next(iter(self._to_read))
                del self._to_read[job_id]
                await self._read_for_all(job_id)

    async def _read_for_all(self, job_id: UUID | None) -> None:
        asked_before = self._read_by.pop(job_id, [])
        try:
            if not await self._read(job_id):
                return  # whoever asked has left
        except Exception as error:
            if is_lost(error):
                log.warning("stream_reading_interrupted", detail=str(error).splitlines()[0])
                self._read_by.setdefault(job_id, []).extend(asked_before)
                self._ask_again_soon(job_id)
                return
            if is_slow(error):
                log.warning("stream_slow", job=str(job_id))
                self._leave_alone(job_id, then_read=True)
            else:
                log.exception("stream_unreadable", job=str(job_id))
                self._leave_alone(job_id, then_read=False)
                self._give_up(job_id)
            for done in _not_given_up(asked_before):
                done.set_exception(_unreadable())
        for done in _not_given_up(asked_before):
            done.set_result(None)

    def _ask_again_soon(self, job_id: UUID | None) -> None:
        if not self._to_ask_again:
            asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._ask_again)
        self._to_ask_again.add(job_id)

    def _ask_again(self) -> None:
        while self._to_ask_again:
            self.ask(self._to_ask_again.pop())

    def _leave_alone(self, job_id: UUID | None, *, then_read: bool) -> None:
        """Do not read a job for a while, whatever is told of it."""

        def end_rest() -> None:
            self._resting.discard(job_id)
            if then_read:
                self.ask(job_id)

        self._resting.add(job_id)
        asyncio.get_running_loop().call_later(_REST_SECONDS, end_rest)


def _unreadable() -> ProblemError:
    retry = {"Retry-After": f"{_REST_SECONDS:.0f}"}
    return ProblemError(503, "database_unavailable", "What is stored cannot be read now.", retry)


def _not_given_up(asked: list[asyncio.Future[None]]) -> list[asyncio.Future[None]]:
    return [done for done in asked if not done.done()]
