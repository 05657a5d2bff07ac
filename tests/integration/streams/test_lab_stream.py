"""The stream of all jobs: of each that its reader may see, from now on or from a place; and what streams refuse."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from harness.jobs import DIGITS_MLP
from models.job import CHANNEL

UNKNOWN = "01a1fc05-96f8-74b8-9c20-173cf1283400"


def test_a_foreign_job_is_not_told_of_where_members_see_their_own(quiet: Any, written: Any, stream: Any) -> None:
    theirs, token = written(), quiet.new_user("hermit")
    with quiet.another_api(jobs_visible="own") as api, api.client(token) as client:
        answer = client.get(f"/jobs/{theirs.id}/stream")
        assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")
        own = client.post("/jobs", json=DIGITS_MLP).json()["id"]
        with stream(client, "/stream") as events, stream(quiet.http, "/stream") as of_admin:
            theirs.start()
            quiet.http.post(f"/jobs/{own}/cancel")
            (first, last) = events.take(2)
            assert {told.data["job"] for told in of_admin.until(lambda told: told.event == "end")} == {theirs.id, own}
        assert (first.event, last.event) == ("status", "end")
        assert {first.data["job"], last.data["job"]} == {own}


def test_the_stream_of_all_jobs_tells_of_each_from_now_on(quiet: Any, written: Any, stream: Any) -> None:
    old = written()
    old.start()
    old.epochs(1, 5)
    with stream(quiet.http, "/stream") as events:
        new = written()
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


def test_the_stream_of_all_jobs_goes_on_after_an_event_with_exactly_the_rest(
    quiet: Any, written: Any, stream: Any
) -> None:
    job = written()
    with stream(quiet.http, "/stream", events="status,epoch,log,end") as events:
        job.start()
        job.epochs(1, 20)
        job.log("hello")
        job.fail()
        told = events.until(lambda told: told.event == "end")
    for number, before in enumerate(told[:-1], start=1):
        with stream(quiet.http, "/stream", before.id, events="status,epoch,log,end") as events:
            assert events.take(len(told) - number) == told[number:]


def test_who_opens_the_stream_of_all_jobs_has_a_place_to_come_again_to_before_anything_happens(
    quiet: Any, written: Any, stream: Any
) -> None:
    job = written()
    with stream(quiet.http, "/stream") as events:
        place = events.first_id
    job.start()
    with stream(quiet.http, "/stream", place) as again:
        again.until(lambda told: told.data["job"] == job.id and told.data["to_status"] == "running")
    job.fail()


def test_whoever_comes_with_a_place_that_is_not_known_any_more_is_reset(quiet: Any, written: Any, stream: Any) -> None:
    job = written()
    with stream(quiet.http, "/stream", f"{'0' * 16}-7") as events:
        (reset,) = events.take(1)
        assert reset.event == "reset"
        job.start()
        assert events.take(1)[0].data["job"] == job.id
        with stream(quiet.http, "/stream", reset.id) as again:
            assert again.take(1)[0].data["job"] == job.id
    job.fail()


def test_what_happens_while_nobody_listens_is_made_good(quiet: Any, written: Any, stream: Any, numbers: Any) -> None:
    job = written()
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


@pytest.mark.parametrize("diagnosis", [{"a": 1}, 7, "x", [1, {}, [], None, "x"]])
def test_a_malformed_diagnosis_is_left_out_of_its_streams_and_disturbs_no_other(
    quiet: Any, diagnosis: Any, written: Any, stream: Any, whole: Any
) -> None:
    job, other = written(), written()
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


def test_a_job_that_cannot_be_read_ends_its_own_streams_alone_and_they_can_be_resumed(
    quiet: Any, written: Any, stream: Any, whole: Any, numbers: Any
) -> None:
    job, other = written(), written()
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
        log = api.log()
        assert log.count("stream_unreadable") == 1
        assert "stream_reading_interrupted" not in log
    quiet.rows("UPDATE epochs SET recorded_at = clock_timestamp() WHERE job_id = %s", job.id)
    job.fail()
    other.fail()
    with quiet.another_api() as api, api.client(quiet.stack.admin_token) as client:
        assert [told.event for told in whole(client, job.id, last.id)] == ["epoch", "epoch", "status", "end"]


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


@contextmanager
def slow_to_read(service: Any, job_id: str) -> Iterator[None]:
    """Let every look at new epochs of a job take 5 s."""
    slow = f"job_id = '{job_id}'"
    service.rows(f"""
        DO $$ BEGIN
            ALTER TABLE epochs RENAME TO quick_epochs;
            CREATE VIEW epochs AS SELECT * FROM quick_epochs
                WHERE CASE WHEN {slow} THEN (SELECT pg_sleep(5)) IS NOT NULL ELSE true END;
        END $$
    """)
    try:
        yield
    finally:
        service.rows("DO $$ BEGIN DROP VIEW epochs; ALTER TABLE quick_epochs RENAME TO epochs; END $$")


def test_a_job_that_is_slow_to_read_holds_up_no_other_and_its_streams_go_on_when_it_is_not(
    quiet: Any, written: Any, stream: Any, numbers: Any
) -> None:
    job, other = written(), written()
    job.start()
    other.start()
    with (
        quiet.another_api() as api,
        api.client(quiet.stack.admin_token) as client,
        stream(client, f"/jobs/{job.id}/stream") as events,
        stream(client, f"/jobs/{other.id}/stream") as of_other,
    ):
        events.take(2)
        of_other.take(2)
        with slow_to_read(quiet, job.id):
            job.epochs(1, 2)
            deadline = time.monotonic() + 20
            while "stream_slow" not in api.log():
                assert time.monotonic() < deadline, "the reader waits for as long as it takes"
                time.sleep(0.05)
            other.epochs(1, 3)
            assert numbers(of_other.take(3)) == [1, 2, 3]
        assert numbers(events.take(2)) == [1, 2]
        assert "stream_unreadable" not in api.log()
    job.fail()
    other.fail()
