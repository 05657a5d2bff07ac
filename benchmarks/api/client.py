"""A lean HTTP client on kept connections: asyncio and a parser in C, so that the clients are not what is measured."""

import asyncio
import json
import resource
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import httptools
import uvloop

from benchmarks.processes import MeasurementFailed

HOST = "127.0.0.1"
_ANSWER_SECONDS = 60.0
_POLL_SECONDS = 0.01
_SHOWN_BYTES = 300
_OPENED_AT_ONCE = 50  # a server takes so many at once into its queue

Returned = TypeVar("Returned")
SomeConnection = TypeVar("SomeConnection", bound="Connection")


def request(method: str, path: str, headers: Mapping[str, str] | None = None, body: object = None) -> bytes:
    """Return a request as it goes over the wire; a body is sent as JSON."""
    content = b"" if body is None else json.dumps(body).encode()
    lines = {"Host": "localhost", **(headers or {})}
    if content:
        lines |= {"Content-Type": "application/json", "Content-Length": str(len(content))}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + content


class Connection(asyncio.Protocol):
    """One connection; what a subclass does at `on_status`, `on_body` and `on_message_complete` is called as they come.

    `ended`, once it is set, tells why the connection is of no more use.
    """

    def __init__(self) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.fail(f"no HTTP: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        """Say so, unless we ended it."""
        self.fail(f"the server closed a connection ({error or 'in order'})")

    def fail(self, why: str) -> None:
        """End the connection for this reason, unless it is ended."""
        if not self.ended.done():
            self.ended.set_exception(MeasurementFailed(why))
            self.transport.abort()

    def close(self) -> None:
        """End the connection."""
        if not self.ended.done():
            self.ended.set_result(None)
        elif not self.ended.cancelled():
            self.ended.exception()  # seen: another one was raised before it
        self.transport.abort()


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    etag: str | None
    body: bytes

    def read(self, status: int = 200) -> Any:
        """Return the body's JSON; raise MeasurementFailed unless the answer has this status."""
        if self.status != status:
            raise MeasurementFailed(f"{status} was expected, not {self.status}: {self.body[:_SHOWN_BYTES]!r}")
        return json.loads(self.body)


class Asker(Connection):
    """A connection on which one request follows the other."""

    def __init__(self) -> None:
        super().__init__()
        self._answer: asyncio.Future[Answer] | None = None

    def on_message_begin(self) -> None:
        """Forget the last answer."""
        self._etag: str | None = None
        self._body: list[bytes] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the tag of the answer."""
        if name.lower() == b"etag":
            self._etag = value.decode()

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Give the answer to who asked."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Answer(self.parser.get_status_code(), self._etag, b"".join(self._body)))

    def fail(self, why: str) -> None:
        """End the connection, and tell who waits for an answer."""
        super().fail(why)
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(MeasurementFailed(why))

    async def ask(self, request: bytes) -> Answer:
        """Send a request and return its answer; raise MeasurementFailed where none comes."""
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await self._answer
        except TimeoutError:
            raise MeasurementFailed(f"no answer after {_ANSWER_SECONDS:.0f} s") from None


@asynccontextmanager
async def connected(port: int, makers: Sequence[Callable[[], SomeConnection]]) -> AsyncIterator[list[SomeConnection]]:
    """Open connections to this port of the machine itself, some at a time, and end them all."""
    loop = asyncio.get_running_loop()
    opened: list[SomeConnection] = []
    try:
        for first in range(0, len(makers), _OPENED_AT_ONCE):
            some = makers[first : first + _OPENED_AT_ONCE]
            made = await asyncio.gather(*(loop.create_connection(maker, HOST, port) for maker in some))
            opened += [connection for _, connection in made]
        yield opened
    finally:
        for connection in opened:
            connection.close()


async def until(reached: Callable[[], bool], connections: Sequence[Connection], seconds: float) -> bool:
    """Wait for at most so long; return whether it was reached; raise MeasurementFailed when a connection fails."""
    deadline = time.perf_counter() + seconds
    while not reached():
        for connection in connections:
            if connection.ended.done():
                connection.ended.result()
        if time.perf_counter() > deadline:
            return False
        await asyncio.sleep(_POLL_SECONDS)
    return True


def run(measurement: Coroutine[Any, Any, Returned]) -> Returned:
    """Run a measurement to its end on a loop like the servers'."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(measurement)


def allow_many_files() -> None:
    """Raise the limit on open files, connections included, as far as the system lets us; children inherit it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
