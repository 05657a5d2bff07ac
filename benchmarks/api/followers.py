"""Those who follow one running job: a thousand streams, scripts that poll, and readers that wait for the next epoch."""

import asyncio
import random
import re
import time
from dataclasses import dataclass
from http import HTTPStatus

import psutil
import psycopg

from benchmarks.api.client import Answer, Asker, Connection, connected, request, run, until
from benchmarks.api.recording import APPLICATION, Recorder
from benchmarks.api.servers import Ours
from benchmarks.api.setting import Scale
from benchmarks.processes import MeasurementFailed

_EPOCH_SECONDS_OF_POLLED_JOB = 5
_WAIT_SECONDS = 30
_SETTLE_SECONDS = 1.0
_LOOK_SECONDS = 3.0
_LOOKS_PER_SECOND = 20
_OPEN_SECONDS = 60.0
_GATHER_SECONDS = 5.0  # for what is late
_EPOCH = re.compile(rb'"epoch": ?(\d+)')


@dataclass(frozen=True)
class Streams:
    """Seconds from just before each epoch is recorded until each stream has it, and bytes of the API's memory."""

    clients: int
    latencies: list[float]
    expected: int
    repeated: int
    resident_before: int
    resident_with: int


@dataclass(frozen=True)
class Polling:
    """Scripts that ask each second: CPU seconds of the API per second, and how many answers were news."""

    scripts: int
    cores: float
    answers: int
    news: int


@dataclass(frozen=True)
class Waiting:
    """Readers whose answer is held back, and the most connections of the API meanwhile, also by what they did."""

    readers: int
    connections: int
    in_transaction: int
    latencies: list[float]


def follow_streams(ours: Ours, scale: Scale) -> Streams:
    """Open the streams of the queued job, then record an epoch per second."""
    return run(_follow_streams(ours, scale))


def poll(ours: Ours, scale: Scale) -> Polling:
    """Let scripts ask for what is new of the queued job, as it gets an epoch every few seconds."""
    return run(_poll(ours, scale))


def wait_for_news(ours: Ours, scale: Scale) -> Waiting:
    """Let readers wait for the next epoch of the queued job, look at the database, then record that epoch."""
    return run(_wait_for_news(ours, scale))


class _Stream(Connection):
    """Notes when each epoch arrives."""

    def __init__(self) -> None:
        super().__init__()
        self.is_open = False
        self.arrivals: list[tuple[int, float]] = []
        self._unread = b""

    def on_headers_complete(self) -> None:
        """Say that the stream is open."""
        self.is_open = self.parser.get_status_code() == HTTPStatus.OK
        if not self.is_open:
            self.fail(f"a stream was refused with {self.parser.get_status_code()}")

    def on_body(self, body: bytes) -> None:
        """Read the events that are complete."""
        now = time.perf_counter()
        *events, self._unread = (self._unread + body.replace(b"\r", b"")).split(b"\n\n")
        for event in events:
            if b"event: epoch" in event and (found := _EPOCH.search(event)):
                self.arrivals.append((int(found[1]), now))


async def _follow_streams(ours: Ours, scale: Scale) -> Streams:
    recorder = await asyncio.to_thread(Recorder, ours.sqlalchemy_url)
    api = psutil.Process(ours.pid)
    before = api.memory_info().rss
    async with connected(ours.port, [_Stream] * scale.streams) as streams:
        asked = request("GET", f"/jobs/{recorder.claim.job_id}/stream", {**ours.headers, "Accept": "text/event-stream"})
        for stream in streams:
            stream.transport.write(asked)
        if not await until(lambda: all(stream.is_open for stream in streams), streams, _OPEN_SECONDS):
            raise MeasurementFailed(f"not all streams were open after {_OPEN_SECONDS:.0f} s")
        recorded: dict[int, float] = {}
        for epoch in range(1, scale.stream_epochs + 1):
            recorded[epoch] = time.perf_counter()
            await asyncio.to_thread(recorder.add, epoch)
            await asyncio.sleep(max(0.0, recorded[epoch] + 1 - time.perf_counter()))
        resident = api.memory_info().rss
        expected = scale.streams * scale.stream_epochs
        await until(lambda: sum(len(stream.arrivals) for stream in streams) >= expected, streams, _GATHER_SECONDS)
        first = [dict(reversed(stream.arrivals)) for stream in streams]
    return Streams(
        clients=scale.streams,
        latencies=[at - recorded[epoch] for arrivals in first for epoch, at in arrivals.items()],
        expected=expected,
        repeated=sum(len(stream.arrivals) for stream in streams) - sum(map(len, first)),
        resident_before=before,
        resident_with=resident,
    )


async def _poll(ours: Ours, scale: Scale) -> Polling:
    recorder = await asyncio.to_thread(Recorder, ours.sqlalchemy_url)
    path = f"/jobs/{recorder.claim.job_id}/metrics"
    api = psutil.Process(ours.pid)
    async with connected(ours.port, [Asker] * scale.scripts) as askers:
        await asyncio.sleep(_SETTLE_SECONDS)  # what was measured before may not have ended yet
        ends = time.perf_counter() + scale.poll_seconds
        used, started = sum(api.cpu_times()[:2]), time.perf_counter()
        scripts = [asyncio.create_task(_script(asker, ours, path, ends)) for asker in askers]
        epoch = 1
        while (left := ends - time.perf_counter()) > 0:
            await asyncio.to_thread(recorder.add, epoch)
            epoch += 1
            await asyncio.sleep(min(left, _EPOCH_SECONDS_OF_POLLED_JOB))
        counts = await asyncio.gather(*scripts)
        cores = (sum(api.cpu_times()[:2]) - used) / (time.perf_counter() - started)
    return Polling(scale.scripts, cores, sum(all_ for all_, _ in counts), sum(news for _, news in counts))


async def _script(asker: Asker, ours: Ours, path: str, ends: float) -> tuple[int, int]:
    """Ask each second, from some moment of the first; return how many answers there were, and how many with news."""
    await asyncio.sleep(random.random())  # noqa: S311 - spread over the second, as scripts are
    answers, news, after, tag = 0, 0, 0, ""
    while (now := time.perf_counter()) < ends:
        headers = {**ours.headers, "If-None-Match": tag} if tag else ours.headers
        answer = await asker.ask(request("GET", f"{path}?after={after}", headers))
        answers += 1
        tag = answer.etag or ""
        if answer.status != HTTPStatus.NOT_MODIFIED:
            view = answer.read()
            news += bool(view["epochs"])
            tag = "" if view["epochs"] else tag  # what follows another epoch is another answer
            after = view["next"]
        await asyncio.sleep(max(0.0, now + 1 - time.perf_counter()))
    return answers, news


async def _wait_for_news(ours: Ours, scale: Scale) -> Waiting:
    recorder = await asyncio.to_thread(Recorder, ours.sqlalchemy_url)
    path = f"/jobs/{recorder.claim.job_id}/metrics?after=0&wait={_WAIT_SECONDS}"
    async with connected(ours.port, [Asker] * scale.waiting) as askers:
        readers = [asyncio.create_task(_timed(asker, request("GET", path, ours.headers))) for asker in askers]
        await asyncio.sleep(_SETTLE_SECONDS)
        connections, in_transaction = await asyncio.to_thread(_look, ours.database_url)
        if any(reader.done() for reader in readers):
            raise MeasurementFailed("a reader who should wait had an answer")
        recorded = time.perf_counter()
        await asyncio.to_thread(recorder.add, 1)
        found = await asyncio.gather(*readers)
    for answer, _ in found:
        if [epoch["epoch"] for epoch in answer.read()["epochs"]] != [1]:
            raise MeasurementFailed("a reader who waited had another answer than the epoch that came")
    return Waiting(scale.waiting, connections, in_transaction, [at - recorded for _, at in found])


async def _timed(asker: Asker, asked: bytes) -> tuple[Answer, float]:
    answer = await asker.ask(asked)
    return answer, time.perf_counter()


def _look(database_url: str) -> tuple[int, int]:
    """Return the most connections of the API that were seen at one moment, and of them within a transaction."""
    query = (
        "SELECT count(*), count(*) FILTER (WHERE state <> 'idle') FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name <> %s AND backend_type = 'client backend'"
    )
    seen = []
    with psycopg.connect(database_url, autocommit=True, application_name=APPLICATION) as connection:
        for _ in range(int(_LOOK_SECONDS * _LOOKS_PER_SECOND)):
            seen.append(connection.execute(query, [APPLICATION]).fetchone() or (0, 0))
            time.sleep(1 / _LOOKS_PER_SECOND)
    return max(row[0] for row in seen), max(row[1] for row in seen)
