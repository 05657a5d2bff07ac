"""The stream of a job: in order, complete, resumed anywhere, and cheap whoever reads and however slowly."""

import os
import random
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx2
import psutil
import pytest

SPEC = {"dataset": {"name": "digits"}, "network": {"name": "mlp"}, "training": {"epochs": 3, "seed": 1}}


@pytest.fixture(scope="module")
def trained(service: Any, stream: Any) -> tuple[str, list[Any]]:
    """A job that a worker has trained, and what a reader who was there from the start was told."""
    job_id = service.submit(SPEC)
    with stream(service.http, f"/jobs/{job_id}/stream") as events:
        return job_id, list(events)


def data(events: list[Any], kind: str) -> list[dict[str, Any]]:
    return [told.data for told in events if told.event == kind]


def test_a_stream_tells_what_the_other_routes_tell(service: Any, trained: tuple[str, list[Any]]) -> None:
    job_id, events = trained
    job = service.job(job_id)
    assert data(events, "epoch") == service.epochs(job_id)
    assert data(events, "status") == job["transitions"]
    assert data(events, "log") == service.http.get(f"/jobs/{job_id}/logs").json()["entries"]
    assert data(events, "diagnosis") == service.http.get(f"/jobs/{job_id}/result").json()["diagnosis"]
    assert events[-1].event == "end"
    assert events[-1].data == {name: job[name] for name in ("status", "reason", "message")}
    assert job["status"] == "succeeded"


def test_events_come_in_the_order_in_which_things_happened(trained: tuple[str, list[Any]], numbers: Any) -> None:
    _, events = trained
    kinds = [told.event for told in events if told.event not in {"log", "diagnosis"}]
    assert kinds == ["status", "status", "epoch", "epoch", "epoch", "status", "end"]
    assert numbers(events) == [1, 2, 3]


def test_a_finished_job_is_told_again_in_full_and_ends_at_once(
    service: Any, trained: tuple[str, list[Any]], whole: Any
) -> None:
    job_id, events = trained
    assert whole(service.http, job_id) == events


def test_a_stream_cut_anywhere_goes_on_with_exactly_the_rest(quiet: Any, resumed: str, whole: Any) -> None:
    events = whole(quiet.http, resumed)
    assert len({told.id for told in events}) == len(events) == 5 + 8 + 6 + 1
    for number, told in enumerate(events[:-1], start=1):
        assert whole(quiet.http, resumed, told.id) == events[number:]
        assert whole(quiet.http, resumed, last_event_id=told.id) == events[number:]


def test_the_header_wins_over_the_query(quiet: Any, resumed: str, whole: Any) -> None:
    events = whole(quiet.http, resumed)
    assert whole(quiet.http, resumed, events[9].id, last_event_id=events[3].id) == events[10:]


def test_who_has_the_end_is_told_that_nothing_comes(quiet: Any, resumed: str, whole: Any) -> None:
    last = whole(quiet.http, resumed)[-1].id
    answer = quiet.http.get(f"/jobs/{resumed}/stream", headers={"Last-Event-ID": last})
    assert (answer.status_code, answer.content) == (204, b"")


def test_only_the_events_asked_for_come_and_always_the_end(quiet: Any, resumed: str, whole: Any) -> None:
    events = whole(quiet.http, resumed)
    wanted = [told for told in events if told.event in {"status", "end"}]
    assert whole(quiet.http, resumed, events="status") == wanted
    assert whole(quiet.http, resumed, wanted[2].id, events="status") == wanted[3:]


def test_an_epoch_that_a_later_attempt_records_again_is_sent_again(
    quiet: Any, written: Any, stream: Any, whole: Any, numbers: Any
) -> None:
    job = written()
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


def test_a_reader_who_comes_and_goes_between_two_processes_misses_nothing_and_gets_nothing_twice(
    quiet: Any, written: Any, stream: Any, whole: Any, numbers: Any
) -> None:
    job, chance = written(), random.Random(5)
    seen: list[Any] = []
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


def _write_in_pieces(job: Any) -> None:
    job.start()
    for first in range(1, 201, 4):
        job.epochs(first, first + 3)
        job.log(f"{first}")
    job.fail()


def test_two_readers_of_different_speed_get_the_same(quiet: Any, written: Any, stream: Any, numbers: Any) -> None:
    job = written()
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


def test_a_reader_who_does_not_read_costs_neither_memory_nor_others_anything(
    quiet: Any, written: Any, stream: Any
) -> None:
    job = written()
    job.start()
    with quiet.another_api() as api, api.client(quiet.stack.admin_token) as client, ExitStack() as sockets:
        job.epochs(1, 100)
        stalled = [sockets.enter_context(_unread(api.base_url, job.id, quiet.stack.admin_token)) for _ in range(20)]
        with stream(client, f"/jobs/{job.id}/stream") as events:
            events.until(lambda told: told.data.get("epoch") == 100)
            before = psutil.Process(api.pid).memory_info().rss
            for last in range(2_000, 40_001, 2_000):
                job.epochs(last - 1_999 if last > 2_000 else 101, last)
                events.until(lambda told, last=last: told.data.get("epoch") == last)
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


def test_a_hundred_streams_share_two_connections_to_the_database(quiet: Any, written: Any, stream: Any) -> None:
    jobs = [written() for _ in range(4)]
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


def test_what_nobody_told_of_is_found_all_the_same(quiet: Any, written: Any, stream: Any, numbers: Any) -> None:
    job = written()
    job.start()
    with stream(quiet.http, f"/jobs/{job.id}/stream") as events:
        events.take(2)
        job.epochs(1, 2, told=False)
        assert numbers(events.take(2)) == [1, 2]
    job.fail()


@pytest.mark.usefixtures("own_servers")
def test_a_stream_outlives_a_restart_of_the_database(quiet: Any, written: Any, stream: Any, numbers: Any) -> None:
    job = written()
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


def test_streams_and_waiting_readers_end_when_the_process_is_asked_to_stop(
    quiet: Any, written: Any, stream: Any, whole: Any
) -> None:
    job = written()
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
        time.sleep(2)  # the other request is on its way
        os.kill(api.pid, signal.SIGTERM)
        assert list(events) == list(all_events) == []
        assert waiting.result().json()["epochs"] == []
        gone = psutil.Process(api.pid)
        gone.wait(10)
        assert "graceful shutdown exceeded" not in api.log()
    job.epochs(1, 1)
    job.fail()
    assert [told.event for told in whole(quiet.http, job.id, started.id)] == ["epoch", "status", "end"]


def test_a_stream_ends_when_its_token_is_revoked(quiet: Any, written: Any, stream: Any) -> None:
    job = written()
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


def test_the_stream_of_a_foreign_job_ends_with_the_right_to_read_it(quiet: Any, written: Any, stream: Any) -> None:
    job, token = written(), quiet.new_user("once-admin", role="admin")
    with quiet.another_api(jobs_visible="own") as api, api.client(token) as client:
        with stream(client, f"/jobs/{job.id}/stream") as events:
            events.take(1)
            assert quiet.http.patch("/users/once-admin", json={"role": "member"}).is_success
            assert list(events) == []
        assert client.get(f"/jobs/{job.id}/stream").status_code == 404


def test_an_id_of_another_job_is_refused(quiet: Any, resumed: str, written: Any, stream: Any) -> None:
    job = written()
    job.start()
    job.epochs(1, 1)
    with stream(quiet.http, f"/jobs/{job.id}/stream") as events:
        foreign = events.take(3)[-1].id
    answer = quiet.http.get(f"/jobs/{resumed}/stream", headers={"Last-Event-ID": foreign})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_event_id")
    job.fail()
