"""A response that is a stream of events: it ends with its reader, its client, its caller's token, or the process."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from api.streams.failures import DATABASE_AWAY
from api.streams.readers import CHUNK_BYTES, EndOfStream, Reader

log = structlog.get_logger(__name__)

BEAT_SECONDS = 15.0  # proxies close what is silent for longer; as the browsers' standard advises
_STALL_SECONDS = 60.0  # a client that takes nothing for so long has gone
_DOUBT_SECONDS = 1.0  # those who ask again whether they may go on do so spread over this time
_RETRY_MILLISECONDS = (500, 2_000)  # a range: those whom one process leaves do not come back all at once


class EventStream(Response):
    """Sends what its reader takes, and holds no more than that.

    FastAPI's own events would be written out once per client, through three queues and tasks of each; these bytes are
    shared by all, and a client costs two tasks.
    """

    media_type = "text/event-stream"

    def __init__(
        self, reader: Reader, may_go_on: Callable[[], Awaitable[bool]], *, stall_seconds: float = _STALL_SECONDS
    ) -> None:
        """`may_go_on` is asked at every beat, and soon after what tokens allow has changed."""
        self.status_code = 200
        self.background = None
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._reader = reader
        self._may_go_on = may_go_on
        self._stall_seconds = stall_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the end."""
        leaving = asyncio.create_task(self._end_when_gone(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._follow(send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            log.warning("stream_stalled", seconds=self._stall_seconds)  # incomplete, so the server closes it
        finally:
            leaving.cancel()

    async def _follow(self, send: Send) -> None:
        waiter, clock = self._reader.waiter, asyncio.get_running_loop().time
        retry = random.randint(*_RETRY_MILLISECONDS)  # noqa: S311 - no secret
        await self._put(send, f"retry: {retry}\n".encode() + self._beat())
        beat = clock() + BEAT_SECONDS
        while not waiter.ending:
            waiter.wake.clear()  # before the reading: what happens during it must wake us again
            try:
                events = await self._reader.take()
            except EndOfStream:
                return
            except DATABASE_AWAY as error:
                log.warning("stream_interrupted", detail=str(error).splitlines()[0])
                return
            if events:
                await self._put(send, events)
            if waiter.doubted:
                waiter.doubted = False
                beat = min(beat, clock() + random.uniform(0, _DOUBT_SECONDS))  # noqa: S311 - no secret
            if clock() >= beat:
                if not await self._may_go_on():
                    return
                await self._put(send, self._beat())
                beat = clock() + BEAT_SECONDS
            if not events:
                await _wait(waiter.wake, until=beat)

    def _beat(self) -> bytes:
        """Return a comment, and the id to go on after: some events may not have been for this client."""
        return f":\nid: {self._reader.event_id}\n\n".encode()

    async def _put(self, send: Send, content: bytes) -> None:
        """Hand over in pieces that the server's flow control can hold back; raise TimeoutError where none is taken."""
        for start in range(0, len(content), CHUNK_BYTES):
            async with asyncio.timeout(self._stall_seconds):
                piece = content[start : start + CHUNK_BYTES]
                await send({"type": "http.response.body", "body": piece, "more_body": True})

    async def _end_when_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._reader.waiter.end()


async def _wait(event: asyncio.Event, *, until: float) -> None:
    """Return when the event is set, or at this time of the loop's clock."""
    try:
        async with asyncio.timeout_at(until):
            await event.wait()
    except TimeoutError:
        return
