"""A response that is a stream: how it ends, beats, and gives up on a client that takes nothing."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from api.streams import response
from api.streams.fan_out import Waiter
from api.streams.readers import CHUNK_BYTES, EndOfStream
from api.streams.response import EventStream


class Scripted:
    """A reader that has these events, and then waits or ends."""

    def __init__(self, *events: bytes, ends: bool = True) -> None:
        self.waiter = Waiter()
        self.event_id = "7"
        self._events = deque(events)
        self._ends = ends

    async def take(self) -> bytes | None:
        if self._events:
            return self._events.popleft()
        if self._ends:
            raise EndOfStream
        return None


class Client:
    """The other side of a response."""

    def __init__(self, takes: Callable[[dict[str, Any]], Awaitable[None]] | None = None) -> None:
        self.messages: list[dict[str, Any]] = []
        self.left = asyncio.Event()
        self._takes = takes

    async def send(self, message: Any) -> None:
        if self._takes is not None:
            await self._takes(message)
        self.messages.append(message)

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for message in self.messages if message["type"] == "http.response.body"]

    @property
    def complete(self) -> bool:
        return self.messages[-1].get("more_body") is False


async def yes() -> bool:
    return True


def test_a_stream_sends_a_hint_and_all_events_and_is_complete() -> None:
    async def run() -> Client:
        client = Client()
        await EventStream(Scripted(b"one\n\n", b"two\n\n"), yes)({}, client.receive, client.send)
        return client

    client = asyncio.run(run())
    assert client.bodies[0].startswith(b"retry: ")
    assert client.bodies[1:] == [b"one\n\n", b"two\n\n", b""]
    assert client.complete


def test_a_large_event_is_handed_over_in_pieces_that_can_be_held_back() -> None:
    event = b"x" * (2 * CHUNK_BYTES + 5)

    async def run() -> Client:
        client = Client()
        await EventStream(Scripted(event), yes)({}, client.receive, client.send)
        return client

    client = asyncio.run(run())
    assert [len(body) for body in client.bodies[1:]] == [CHUNK_BYTES, CHUNK_BYTES, 5, 0]
    assert b"".join(client.bodies[1:]) == event


def test_a_client_that_takes_nothing_is_given_up_and_its_answer_left_incomplete() -> None:
    async def takes(message: dict[str, Any]) -> None:
        if message.get("body") == b"two\n\n":
            await asyncio.Event().wait()

    async def run() -> Client:
        client = Client(takes)
        await EventStream(Scripted(b"one\n\n", b"two\n\n"), yes, stall_seconds=0.05)({}, client.receive, client.send)
        return client

    client = asyncio.run(run())
    assert client.bodies[-1] == b"one\n\n"
    assert not client.complete


def test_a_stream_whose_client_has_gone_ends() -> None:
    async def run() -> Client:
        client = Client()
        answering = asyncio.create_task(EventStream(Scripted(ends=False), yes)({}, client.receive, client.send))
        await asyncio.sleep(0)
        client.left.set()
        await asyncio.wait_for(answering, 10)
        return client

    assert len(asyncio.run(run()).bodies) == 2


def test_a_silent_stream_beats_with_the_place_it_has_come_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response, "BEAT_SECONDS", 0.01)
    reader = Scripted(ends=False)

    async def asked() -> bool:
        reader.event_id = "8"
        return True

    async def run() -> Client:
        client = Client()
        client._takes = leaves_at_the_third_beat(client)
        stream = EventStream(reader, asked)
        await asyncio.wait_for(stream({}, client.receive, client.send), 10)
        return client

    def leaves_at_the_third_beat(client: Client) -> Callable[[dict[str, Any]], Awaitable[None]]:
        async def takes(message: dict[str, Any]) -> None:
            if len(client.bodies) == 3:
                client.left.set()

        return takes

    assert asyncio.run(run()).bodies[1:3] == [b":\nid: 8\n\n"] * 2


@pytest.mark.parametrize("doubted", [False, True])
def test_a_stream_ends_when_its_caller_may_not_go_on(monkeypatch: pytest.MonkeyPatch, doubted: bool) -> None:
    monkeypatch.setattr(response, "BEAT_SECONDS", 3_600 if doubted else 0.01)
    monkeypatch.setattr(response, "_DOUBT_SECONDS", 0.01)

    async def no() -> bool:
        return False

    async def run() -> Client:
        client, reader = Client(), Scripted(ends=False)
        answering = asyncio.create_task(EventStream(reader, no)({}, client.receive, client.send))
        await asyncio.sleep(0)
        if doubted:
            reader.waiter.doubt()
        await asyncio.wait_for(answering, 10)
        return client

    client = asyncio.run(run())
    assert len(client.bodies) == 2
    assert client.complete
