"""Server-sent events: in order, complete, resumed anywhere, and cheap whoever reads and however slowly."""

import json
import os
import random
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx2
import psutil
import pytest

from models.job import CHANNEL

JOB = {"dataset": {"name": "digits"}, "network": {"name": "mlp"}, "training": {"epochs": 3, "seed": 1}}
UNKNOWN = "01a1fc05-96f8-74b8-9c20-173cf1283400"


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
def stream(client: httpx2.Client, path: str, last_id: str | None = None, **query: str) -> Iterator[Events]:
    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    with client.stream("GET", path, params=query, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        yield Events(answer)


def whole(client: httpx2.Client, job_id: str, last_id: str | None = None, **query: str) -> list[Told]:
    """Return the events of a job that has ended."""
    with stream(client, f"/jobs/{job_id}/stream", last_id, **query) as events:
        return list(events)


class Written:
    """A job that is written as a worker writes it, by SQL; no worker runs."""

    def __init__(self, service: Any) -> None:
        self._service = service
        self.id: str = service.submit(JOB)
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


@pytest.fixture(scope="module")
def quiet(start_service: Any) -> Any:
    """A service without workers: its jobs do what a test says."""
    return start_service(workers=0)


@pytest.fixture(scope="module")
def resumed(quiet: Any) -> str:
    """A job that was lost and resumed, printed things, and has ended."""
    job = Written(quiet)
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


@pytest.fixture(scope="module")
def trained(service: Any) -> tuple[str, list[Told]]:
    """A job that a worker has trained, and what a reader who was there from the start was told."""
    job_id = service.submit(JOB)
    with stream(service.http, f"/jobs/{job_id}/stream") as events:
        return job_id, list(events)


def data(events: list[Told], kind: str) -> list[dict[str, Any]]:
    return [told.data for told in events if told.event == kind]


def numbers(events: list[Told]) -> list[int]:
    return [epoch["epoch"] for epoch in data(events, "epoch")]


def test_a_stream_tells_what_the_other_routes_tell(service: Any, trained: tuple[str, list[Told]]) -> None:
    job_id, events = trained
    job = service.job(job_id)
    assert data(events, "epoch") == service.epochs(job_id)
    assert data(events, "status") == job["transitions"]
    assert data(events, "log") == service.http.get(f"/jobs/{job_id}/logs").json()["entries"]
    assert data(events, "diagnosis") == service.http.get(f"/jobs/{job_id}/result").json()["diagnosis"]
    assert events[-1].event == "end"
    assert events[-1].data == {name: job[name] for name in ("status", "reason", "message")}
    assert job["status"] == "succeeded"


def test_events_come_in_the_order_in_which_things_happened(trained: tuple[str, list[Told]]) -> None:
    _, events = trained
    kinds = [told.event for told in events if told.event not in {"log", "diagnosis"}]
    assert kinds == ["status", "status", "epoch", "epoch", "epoch", "status", "end"]
    assert numbers(events) == [1, 2, 3]


def test_a_finished_job_is_told_again_in_full_and_ends_at_once(service: Any, trained: tuple[str, list[Told]]) -> None:
    job_id, events = trained
    assert whole(service.http, job_id) == events


def test_a_stream_cut_anywhere_goes_on_with_exactly_the_rest(quiet: Any, resumed: str) -> None:
    events = whole(quiet.http, resumed)
    assert len({told.id for told in events}) == len(events) == 5 + 8 + 6 + 1
    for number, told in enumerate(events[:-1], start=1):
        assert whole(quiet.http, resumed, told.id) == events[number:]
        assert whole(quiet.http, resumed, last_event_id=told.id) == events[number:]


def test_the_header_wins_over_the_query(quiet: Any, resumed: str) -> None:
    events = whole(quiet.http, resumed)
    assert whole(quiet.http, resumed, events[9].id, last_event_id=events[3].id) == events[10:]


def test_who_has_the_end_is_told_that_nothing_comes(quiet: Any, resumed: str) -> None:
    last = whole(quiet.http, resumed)[-1].id
    answer = quiet.http.get(f"/jobs/{resumed}/stream", headers={"Last-Event-ID": last})
    assert (answer.status_code, answer.content) == (204, b"")


def test_only_the_events_asked_for_come_and_always_the_end(quiet: Any, resumed: str) -> None:
    events = whole(quiet.http, resumed)
    wanted = [told for told in events if told.event in {"status", "end"}]
    assert whole(quiet.http, resumed, events="status") == wanted
    assert whole(quiet.http, resumed, wanted[2].id, events="status") == wanted[3:]


def test_an_epoch_that_a_later_attempt_records_again_is_sent_again(quiet: Any) -> None:
    job = Written(quiet)
    with stream(quiet.http, f"/jobs/{job.id}/stream", events="epoch") as events:
        job.start()
        job.epochs(1, 3)
        before = events.take(3)
        job.lose_attempt()
        job.start()
        job.epochs(3, 4)
        after = events.take(2)
        job.fail()
        assert [told.event for told in events] == ["end"]
    assert numbers(before + after) == [1, 2, 3, 3, 4]
    assert numbers(whole(quiet.http, job.id)) == [1, 2, 3, 4]
    assert numbers(whole(quiet.http, job.id, before[1].id)) == [3, 4]
    assert numbers(whole(quiet.http, job.id, before[2].id)) == [3, 4]


def test_a_reader_who_comes_and_goes_between_two_processes_misses_nothing_and_gets_nothing_twice(quiet: Any) -> None:
    job, chance = Written(quiet), random.Random(5)
    seen: list[Told] = []
    with quiet.another_api() as api, api.client(quiet.stack.admin_token) as elsewhere, ThreadPoolExecutor(1) as writer:
        writing = writer.submit(_write_in_pieces, job)
        last_id = None
        while not seen or seen[-1].event != "end":
            client = chance.choice([quiet.http, elsewhere])
            with stream(client, f"/jobs/{job.id}/stream", last_id) as events:
                for told in events:
                    seen.append(told)
                    last_id = told.id
                    if chance.random() < 0.1:
                        break
        writing.result()
    assert sorted(seen) == sorted(whole(quiet.http, job.id))
    assert numbers(seen) == list(range(1, 201))


def _write_in_pieces(job: Written) -> None:
    job.start()
    for first in range(1, 201, 4):
        job.epochs(first, first + 3)
        job.log(f"{first}")
    job.fail()


def test_two_readers_of_different_speed_get_the_same(quiet: Any) -> None:
    job = Written(quiet)
    job.start()
    with stream(quiet.http, f"/jobs/{job.id}/stream") as fast, stream(quiet.http, f"/jobs/{job.id}/stream") as slow:
        job.epochs(1, 10)
        quick = fast.until(lambda told: told.data.get("epoch") == 10)
        job.epochs(11, 3_000)  # more than is kept in memory: who is slow is read the rest again
        quick += fast.until(lambda told: told.data.get("epoch") == 3_000)
        job.fail()
        quick += list(fast)
        assert list(slow) == quick
    assert numbers(quick) == list(range(1, 3_001))


def test_a_reader_who_does_not_read_costs_neither_memory_nor_others_anything(quiet: Any) -> None:
    job = Written(quiet)
    job.start()
    with quiet.another_api() as api, api.client(quiet.stack.admin_token) as client, ExitStack() as sockets:
        job.epochs(1, 100)
        stalled = [sockets.enter_context(_unread(api.base_url, job.id, quiet.stack.admin_token)) for _ in range(20)]
        with stream(client, f"/jobs/{job.id}/stream") as events:
            events.until(lambda told: told.data.get("epoch") == 100)
            before = psutil.Process(api.pid).memory_info().rss
            for last in range(2_000, 40_001, 2_000):
                job.epochs(last - 1_999 if last > 2_000 else 101, last)
                events.until(lambda told, last=last: told.data.get("epoch") == last)  # type: ignore[misc]
            grown = psutil.Process(api.pid).memory_info().rss - before
        # What all 20 have not read is over 150 MB.
        assert grown < 40 * 1_048_576
        job.fail()
        with stalled[0].makefile("rb") as sent:
            text = sent.read()
        assert text.count(b"event: epoch") == 40_000
        assert text.count(b"event: end") == 1


@contextmanager
def _unread(base_url: str, job_id: str, token: str) -> Iterator[socket.socket]:
    """Ask for a stream and read nothing of it yet."""
    address = urlsplit(base_url)
    assert address.hostname is not None
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.settimeout(60)
        connection.connect((address.hostname, address.port))
        request = f"GET /jobs/{job_id}/stream HTTP/1.1\r\nHost: api\r\nAuthorization: Bearer {token}\r\n"
        connection.sendall(f"{request}Connection: close\r\n\r\n".encode())
        yield connection


def test_a_hundred_streams_share_two_connections_to_the_database(quiet: Any) -> None:
    jobs = [Written(quiet) for _ in range(4)]
    token = quiet.stack.admin_token
    connections = "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database()"
    (without,) = quiet.rows(connections)
    with quiet.another_api(database_connections=2) as api, ExitStack() as opened:
        limits = httpx2.Limits(max_connections=200)
        headers = {"Authorization": f"Bearer {token}"}
        client = opened.enter_context(
            httpx2.Client(base_url=api.base_url, headers=headers, timeout=40, trust_env=False, limits=limits)
        )
        streams = [opened.enter_context(stream(client, f"/jobs/{jobs[n % 4].id}/stream")) for n in range(100)]
        for events in streams:
            assert events.take(1)[0].data["to_status"] == "queued"
        (now,) = quiet.rows(connections)
        assert now["n"] - without["n"] <= 2 + 2  # the pool, and what listens
        assert client.get("/jobs").status_code == 200
        for job in jobs:
            job.start()
            job.fail()
        for events in streams:
            assert [told.event for told in events] == ["status", "status", "end"]


def test_what_happens_while_nobody_listens_is_made_good(quiet: Any) -> None:
    job = Written(quiet)
    job.start()
    with stream(quiet.http, f"/jobs/{job.id}/stream") as events, stream(quiet.http, "/stream") as all_events:
        events.take(2)
        listening = "pid IN (SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%%')"
        killed = quiet.rows(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {listening}")
        assert killed
        job.epochs(1, 3, told=False)
        assert numbers(events.take(3)) == [1, 2, 3]
        mine = all_events.until(lambda told: told.data.get("epoch") == 3)
        assert [told.data["epoch"] for told in mine if told.data["job"] == job.id] == [1, 2, 3]
    job.fail()


def test_what_nobody_told_of_is_found_all_the_same(quiet: Any) -> None:
    job = Written(quiet)
    job.start()
    with stream(quiet.http, f"/jobs/{job.id}/stream") as events:
        events.take(2)
        job.epochs(1, 2, told=False)
        assert numbers(events.take(2)) == [1, 2]
    job.fail()


@pytest.mark.usefixtures("own_servers")
def test_a_stream_outlives_a_restart_of_the_database(quiet: Any) -> None:
    job = Written(quiet)
    job.start()
    with stream(quiet.http, f"/jobs/{job.id}/stream") as events:
        job.epochs(1, 2)
        events.take(4)
        quiet.stack.kill_child("postgres")
        quiet.stack.start_child("postgres")
        job.epochs(3, 4, told=False)
        assert numbers(events.take(2)) == [3, 4]
        job.fail()
        assert [told.event for told in events] == ["status", "end"]


def test_streams_and_waiting_readers_end_when_the_process_is_asked_to_stop(quiet: Any) -> None:
    job = Written(quiet)
    job.start()
    with (
        quiet.another_api() as api,
        api.client(quiet.stack.admin_token) as client,
        ThreadPoolExecutor(1) as other,
        stream(client, f"/jobs/{job.id}/stream") as events,
        stream(client, "/stream") as all_events,
    ):
        (_, started) = events.take(2)
        waiting = other.submit(client.get, f"/jobs/{job.id}/metrics", params={"wait": 30})
        time.sleep(0.5)  # the other request is on its way
        os.kill(api.pid, signal.SIGTERM)
        assert list(events) == list(all_events) == []
        assert waiting.result().json()["epochs"] == []
        gone = psutil.Process(api.pid)
        gone.wait(10)
        log = next(
            path
            for path in (quiet.data_dir / "logs").glob("api-*.log")
            if str(urlsplit(api.base_url).port) in path.name
        )
        assert "graceful shutdown exceeded" not in log.read_text()
    job.epochs(1, 1)
    job.fail()
    assert [told.event for told in whole(quiet.http, job.id, started.id)] == ["epoch", "status", "end"]


def test_a_stream_ends_when_its_token_is_revoked(quiet: Any) -> None:
    job = Written(quiet)
    token = quiet.new_user("short-lived")
    with (
        stream(quiet.client(token), f"/jobs/{job.id}/stream") as events,
        stream(quiet.http, f"/jobs/{job.id}/stream") as mine,
    ):
        events.take(1)
        assert quiet.http.delete(f"/tokens/{token.split('_')[1]}").is_success
        assert list(events) == []
        assert mine.take(1)[0].event == "status", "others go on"
    assert quiet.client(token).get(f"/jobs/{job.id}/stream").status_code == 401


def test_the_stream_of_a_foreign_job_ends_with_the_right_to_read_it(quiet: Any) -> None:
    job, token = Written(quiet), quiet.new_user("once-admin", role="admin")
    with quiet.another_api(jobs_visible="own") as api, api.client(token) as client:
        with stream(client, f"/jobs/{job.id}/stream") as events:
            events.take(1)
            assert quiet.http.patch("/users/once-admin", json={"role": "member"}).is_success
            assert list(events) == []
        assert client.get(f"/jobs/{job.id}/stream").status_code == 404


def test_a_foreign_job_is_not_told_of_where_members_see_their_own(quiet: Any) -> None:
    theirs, token = Written(quiet), quiet.new_user("hermit")
    with quiet.another_api(jobs_visible="own") as api, api.client(token) as client:
        answer = client.get(f"/jobs/{theirs.id}/stream")
        assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")
        own = client.post("/jobs", json=JOB).json()["id"]
        with stream(client, "/stream") as events, stream(quiet.http, "/stream") as of_admin:
            theirs.start()
            quiet.http.post(f"/jobs/{own}/cancel")
            (first, last) = events.take(2)
            assert {told.data["job"] for told in of_admin.until(lambda told: told.event == "end")} == {theirs.id, own}
        assert (first.event, last.event) == ("status", "end")
        assert {first.data["job"], last.data["job"]} == {own}


def test_the_stream_of_all_jobs_tells_of_each_from_now_on(quiet: Any) -> None:
    old = Written(quiet)
    old.start()
    old.epochs(1, 5)
    with stream(quiet.http, "/stream") as events:
        new = Written(quiet)
        (*_, submitted) = events.until(lambda told: told.data["job"] == new.id)
        assert submitted.data["to_status"] == "queued"
        old.epochs(6, 6)
        old.log("not asked for")
        old.fail()
        told = events.take(3)
    assert [(t.event, t.data["job"]) for t in told] == [("epoch", old.id), ("status", old.id), ("end", old.id)]
    job = quiet.job(old.id)
    assert told[0].data == {"job": old.id} | quiet.epochs(old.id)[-1]
    assert told[1].data == {"job": old.id} | job["transitions"][-1]
    assert told[2].data == {"job": old.id, "status": "failed", "reason": "runner_died", "message": "So."}


def test_the_stream_of_all_jobs_goes_on_after_an_event_with_exactly_the_rest(quiet: Any) -> None:
    job = Written(quiet)
    with stream(quiet.http, "/stream", events="status,epoch,log,end") as events:
        job.start()
        job.epochs(1, 20)
        job.log("hello")
        job.fail()
        told = events.until(lambda told: told.event == "end")
    for number, before in enumerate(told[:-1], start=1):
        with stream(quiet.http, "/stream", before.id, events="status,epoch,log,end") as events:
            assert events.take(len(told) - number) == told[number:]


def test_who_opens_the_stream_of_all_jobs_has_a_place_to_come_again_to_before_anything_happens(quiet: Any) -> None:
    job = Written(quiet)
    with stream(quiet.http, "/stream") as events:
        place = events.first_id
    job.start()
    with stream(quiet.http, "/stream", place) as again:
        again.until(lambda told: told.data["job"] == job.id and told.data["to_status"] == "running")
    job.fail()


def test_whoever_comes_with_a_place_that_is_not_known_any_more_is_reset(quiet: Any) -> None:
    job = Written(quiet)
    with stream(quiet.http, "/stream", f"{'0' * 16}-7") as events:
        (reset,) = events.take(1)
        assert reset.event == "reset"
        job.start()
        assert events.take(1)[0].data["job"] == job.id
        with stream(quiet.http, "/stream", reset.id) as again:
            assert again.take(1)[0].data["job"] == job.id
    job.fail()


@pytest.mark.parametrize(
    "bad",
    [
        "x",
        "1-2-3",
        "1-1-1-1-1-1",
        "-1-0-0-0-0",
        "1-0-0-0-0 ",
        "9223372036854775808-0-0-0-0",
        "0-2147483648-0-0-0",
        "1" * 101,
    ],
)
def test_an_id_that_is_none_is_refused(quiet: Any, resumed: str, bad: str) -> None:
    for path in (f"/jobs/{resumed}/stream", "/stream"):
        answer = quiet.http.get(path, params={"last_event_id": bad})
        assert answer.status_code == 422, bad
        assert answer.json()["code"] in {"invalid_event_id", "invalid_request"}


def test_an_id_of_another_job_is_refused(quiet: Any, resumed: str) -> None:
    job = Written(quiet)
    job.start()
    job.epochs(1, 1)
    with stream(quiet.http, f"/jobs/{job.id}/stream") as events:
        foreign = events.take(3)[-1].id
    answer = quiet.http.get(f"/jobs/{resumed}/stream", headers={"Last-Event-ID": foreign})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_event_id")
    job.fail()


@pytest.mark.parametrize("path", ["/jobs/{job}/stream", "/stream"])
def test_streams_refuse_what_other_routes_refuse(quiet: Any, resumed: str, path: str) -> None:
    path = path.format(job=resumed)
    assert quiet.anonymous().get(path).status_code == 401
    answer = quiet.http.get(path, params={"events": "status,epochs"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert [(error["loc"], error["code"]) for error in answer.json()["errors"]] == [("events", "unknown_event")]
    for missing in (UNKNOWN, "x"):
        assert quiet.http.get(f"/jobs/{missing}/stream").json()["code"] == "job_not_found"


@pytest.mark.parametrize("path", ["/jobs/{job}/stream", "/stream"])
@pytest.mark.parametrize("query", ["event=epoch", "events=epoch&events=status"])
def test_a_parameter_that_streams_do_not_know_or_that_comes_twice_is_refused(
    quiet: Any, resumed: str, path: str, query: str
) -> None:
    answer = quiet.http.get(f"{path.format(job=resumed)}?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["errors"][0]["loc"] == query.partition("=")[0]


@pytest.mark.parametrize("diagnosis", [{"a": 1}, 7, "x", [1, {}, [], None, "x"]])
def test_a_malformed_diagnosis_is_left_out_of_its_streams_and_disturbs_no_other(quiet: Any, diagnosis: Any) -> None:
    job, other = Written(quiet), Written(quiet)
    with stream(quiet.http, "/stream", events="status,epoch,diagnosis,end") as all_events:
        job.start()
        body = json.dumps({"diagnosis": diagnosis})
        quiet.rows("INSERT INTO results (job_id, attempt, body, essentials) VALUES (%s, 1, %s, '{}')", job.id, body)
        job.fail()
        told = all_events.until(lambda told: told.event == "end")
        assert [t.event for t in told if t.data["job"] == job.id][-3:] == ["status", "status", "end"]
        other.start()
        other.epochs(1, 1)
        assert [t.data["job"] for t in all_events.take(2)] == [other.id, other.id]
    events = whole(quiet.http, job.id)
    assert [told.event for told in events] == ["status", "status", "status", "end"]
    assert [told.event for told in whole(quiet.http, job.id, events[2].id)] == ["end"]
    other.fail()


def test_a_job_that_cannot_be_read_ends_its_own_streams_alone_and_they_can_be_resumed(quiet: Any) -> None:
    job, other = Written(quiet), Written(quiet)
    job.start()
    other.start()
    with (
        quiet.another_api() as api,
        api.client(quiet.stack.admin_token) as client,
        stream(client, f"/jobs/{job.id}/stream") as events,
        stream(client, f"/jobs/{other.id}/stream") as of_other,
        stream(client, "/stream") as all_events,
    ):
        (_, last) = events.take(2)
        of_other.take(2)
        # No Python datetime can hold this, so that every query that reads the row fails.
        job.epochs(1, 2, told=False)
        quiet.rows("UPDATE epochs SET recorded_at = 'infinity' WHERE job_id = %s AND epoch = 2", job.id)
        quiet.rows("SELECT pg_notify(%s, %s)", CHANNEL, job.id)
        assert list(events) == []
        assert all_events.take(1)[0].event == "reset"
        refused = client.get(f"/jobs/{job.id}/stream")
        assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
        assert int(refused.headers["retry-after"]) > 0
        for epoch in range(1, 21):
            other.epochs(epoch, epoch)
        assert numbers(of_other.take(20)) == list(range(1, 21))
        assert {told.data["job"] for told in all_events.take(20)} == {other.id}
        log = (quiet.data_dir / "logs" / f"api-{urlsplit(api.base_url).port}.log").read_text()
        assert log.count("stream_unreadable") == 1
        assert "stream_reading_interrupted" not in log
    quiet.rows("UPDATE epochs SET recorded_at = clock_timestamp() WHERE job_id = %s", job.id)
    job.fail()
    other.fail()
    with quiet.another_api() as api, api.client(quiet.stack.admin_token) as client:
        assert [told.event for told in whole(client, job.id, last.id)] == ["epoch", "epoch", "status", "end"]
