"""What tests of streams share: jobs that are written as a worker writes them, and streams as a client reads them."""

import json
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, NamedTuple

import httpx2
import pytest

from harness.jobs import DIGITS_MLP
from models.job import CHANNEL


class Told(NamedTuple):
    """An event as a client sees it."""

    id: str
    event: str
    data: dict[str, Any]


class Events:
    """The events of an open stream, as they come; `first_id` is what a browser would come again with before any."""

    def __init__(self, answer: httpx2.Response) -> None:
        self._pieces = answer.iter_bytes()
        self._rest = b""
        self._blocks: deque[dict[str, str]] = deque()
        while not self._blocks:
            self._read(next(self._pieces))
        opening = self._blocks.popleft()
        assert int(opening["retry"]) > 0
        self.first_id = opening["id"]

    def __iter__(self) -> Iterator[Told]:
        while self._blocks or self._more():
            fields = self._blocks.popleft() if self._blocks else {}
            if "data" in fields:
                yield Told(fields["id"], fields["event"], json.loads(fields["data"]))
        assert not self._rest, "the stream ends with a whole event"

    def take(self, number: int) -> list[Told]:
        taken: list[Told] = []
        for told in self:
            taken.append(told)
            if len(taken) == number:
                break
        assert len(taken) == number, "the stream ended"
        return taken

    def until(self, reached: Callable[[Told], bool]) -> list[Told]:
        taken = []
        for told in self:
            taken.append(told)
            if reached(told):
                return taken
        raise AssertionError("the stream ended")

    def _more(self) -> bool:
        piece = next(self._pieces, None)
        if piece is not None:
            self._read(piece)
        return piece is not None

    def _read(self, piece: bytes) -> None:
        *blocks, self._rest = (self._rest + piece).split(b"\n\n")
        for block in blocks:
            lines = [line for line in block.decode().split("\n") if not line.startswith(":")]
            self._blocks.append(dict(line.split(": ", 1) for line in lines))


@contextmanager
def _stream(client: httpx2.Client, path: str, last_id: str | None = None, **query: str) -> Iterator[Events]:
    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    with client.stream("GET", path, params=query, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        yield Events(answer)


def _whole(client: httpx2.Client, job_id: str, last_id: str | None = None, **query: str) -> list[Told]:
    """Return the events of a job that has ended."""
    with _stream(client, f"/jobs/{job_id}/stream", last_id, **query) as events:
        return list(events)


class Written:
    """A job that is written as a worker writes it, by SQL; no worker runs."""

    def __init__(self, service: Any) -> None:
        self._service = service
        self.id: str = service.submit(DIGITS_MLP)
        self.attempt = 0

    def start(self) -> None:
        self.attempt += 1
        self._run(
            """WITH moved AS (UPDATE jobs SET status = 'running', attempt = %s WHERE id = %s RETURNING id)
            INSERT INTO transitions (job_id, from_status, to_status, attempt)
            SELECT id, 'queued', 'running', %s FROM moved""",
            self.attempt,
            self.id,
            self.attempt,
        )

    def epochs(self, first: int, last: int, *, told: bool = True) -> None:
        self._run(
            """INSERT INTO epochs (job_id, epoch, attempt, train_loss, train_accuracy, validation_loss,
                validation_accuracy, learning_rate, penalty, seconds)
            SELECT %s, number, %s, 1.0 / number, 0.5, 0.25, 0.75, 0.01, 0, 0.1
            FROM generate_series(%s::int, %s::int) AS number
            ON CONFLICT (job_id, epoch) DO UPDATE SET attempt = excluded.attempt, recorded_at = clock_timestamp()""",
            self.id,
            self.attempt,
            first,
            last,
            told=told,
        )

    def log(self, text: str) -> None:
        self._run("INSERT INTO log_chunks (job_id, attempt, text) VALUES (%s, %s, %s)", self.id, self.attempt, text)

    def lose_attempt(self) -> None:
        self._move("running", "queued", "worker_lost")

    def fail(self) -> None:
        self._move("running", "failed", "runner_died")

    def end(self, status: str) -> None:
        self._move("running", status, "so_it_was")

    def _move(self, before: str, after: str, reason: str) -> None:
        self._run(
            """WITH moved AS (UPDATE jobs SET status = %s, reason = %s, message = 'So.' WHERE id = %s RETURNING id)
            INSERT INTO transitions (job_id, from_status, to_status, reason, message, attempt)
            SELECT id, %s, %s, %s, 'So.', %s FROM moved""",
            *(after, reason, self.id, before, after, reason, self.attempt),
        )

    def _run(self, query: str, *parameters: object, told: bool = True) -> None:
        self._service.rows(query, *parameters)
        if told:
            self._service.rows("SELECT pg_notify(%s, %s)", CHANNEL, self.id)


def _numbers(events: list[Told]) -> list[int]:
    return [told.data["epoch"] for told in events if told.event == "epoch"]


@pytest.fixture(scope="session")
def stream() -> Callable[..., AbstractContextManager[Events]]:
    """How a stream is opened and read."""
    return _stream


@pytest.fixture(scope="session")
def whole() -> Callable[..., list[Told]]:
    """How all of the stream of a job that has ended is read."""
    return _whole


@pytest.fixture(scope="session")
def numbers() -> Callable[[list[Told]], list[int]]:
    """Which epochs are among events."""
    return _numbers


@pytest.fixture(scope="module")
def quiet(start_service: Any) -> Any:
    """A service without workers: its jobs do what a test says."""
    return start_service(workers=0)


@pytest.fixture(scope="module")
def written(quiet: Any) -> Callable[[], Written]:
    """How a job is submitted that is written by SQL."""
    return partial(Written, quiet)


@pytest.fixture(scope="module")
def resumed(written: Callable[[], Written]) -> str:
    """A job that was lost and resumed, printed things, and has ended."""
    job = written()
    job.start()
    for epoch in range(1, 6):
        job.epochs(epoch, epoch)
        job.log(f"epoch {epoch}\u2028 with\ttwo\r\nlines\u0085")
    job.lose_attempt()
    job.start()
    job.epochs(4, 8)
    job.log("again")
    job.fail()
    return job.id
