"""A job that has ended and is tried again: its streams, and its curves in every process."""

from typing import Any

import pytest


def kinds(events: list[Any]) -> list[str]:
    return [told.data.get("to_status", told.event) for told in events if told.event != "log"]


def failed(job: Any) -> Any:
    """Write a job that fails after two epochs."""
    job.start()
    job.epochs(1, 2)
    job.end("failed")
    return job


def tried_again(quiet: Any, job: Any) -> None:
    """Try it again, and write an attempt of three epochs that succeeds."""
    assert quiet.http.post(f"/jobs/{job.id}/retry").status_code == 202
    job.start()
    job.epochs(1, 3)
    job.end("succeeded")


def test_a_stream_of_a_failed_job_ends_and_a_later_one_tells_of_its_whole_life(
    quiet: Any, written: Any, whole: Any
) -> None:
    job = failed(written())
    first = whole(quiet.http, job.id)
    assert kinds(first)[-2:] == ["failed", "end"]
    tried_again(quiet, job)
    told = whole(quiet.http, job.id)
    assert kinds(told) == [
        *("queued", "running", "failed", "queued", "running"),
        *("epoch", "epoch", "epoch", "succeeded", "end"),
    ], "one end, the last; epochs that were recorded again are told of once"
    assert told[-1].data["status"] == "succeeded"


def test_who_saw_the_first_end_goes_on_behind_it(quiet: Any, written: Any, whole: Any, stream: Any) -> None:
    job = failed(written())
    end = whole(quiet.http, job.id)[-1]
    path = f"/jobs/{job.id}/stream"
    assert quiet.http.get(path, headers={"Last-Event-ID": end.id}).status_code == 204
    tried_again(quiet, job)
    rest = whole(quiet.http, job.id, end.id)
    assert kinds(rest) == ["queued", "running", "epoch", "epoch", "epoch", "succeeded", "end"]
    assert quiet.http.get(path, headers={"Last-Event-ID": rest[-1].id}).status_code == 204


def test_two_failures_have_two_ends(quiet: Any, written: Any, whole: Any) -> None:
    job = failed(written())
    first = whole(quiet.http, job.id)[-1]
    assert quiet.http.post(f"/jobs/{job.id}/retry").status_code == 202
    job.start()
    job.end("failed")
    rest = whole(quiet.http, job.id, first.id)
    assert kinds(rest) == ["queued", "running", "failed", "end"]
    assert rest[-1].id != first.id


def test_an_open_stream_ends_with_the_failure_and_another_follows_the_retry(
    quiet: Any, written: Any, stream: Any
) -> None:
    job = written()
    path = f"/jobs/{job.id}/stream"
    with stream(quiet.http, path) as open_before:
        failed(job)
        assert kinds(list(open_before))[-1] == "end"
    assert quiet.http.post(f"/jobs/{job.id}/retry").status_code == 202
    with stream(quiet.http, path) as open_after:
        open_after.until(lambda told: told.data.get("from_status") == "failed")
        job.start()
        job.epochs(1, 1)
        job.end("succeeded")
        assert kinds(list(open_after)) == ["running", "epoch", "succeeded", "end"]


def test_the_stream_of_all_jobs_tells_of_a_retry_of_a_job_that_had_ended_long_ago(
    quiet: Any, written: Any, stream: Any
) -> None:
    job = failed(written())
    quiet.rows("UPDATE jobs SET created_at = created_at - interval '1 day' WHERE id = %s", job.id)
    with quiet.another_api() as api, api.client(quiet.stack.admin_token) as client, stream(client, "/stream") as events:
        tried_again(quiet, job)
        told = events.until(lambda told: told.event == "end" and told.data["job"] == job.id)
    mine = [one for one in told if one.data["job"] == job.id]
    assert kinds(mine) == ["queued", "running", "epoch", "epoch", "epoch", "succeeded", "end"], "nothing of before"


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_curves_are_new_after_a_retry_in_every_process(quiet: Any, written: Any, status: str) -> None:
    job = written()
    job.start()
    job.epochs(1, 2)
    job.end(status)
    path = f"/jobs/{job.id}/metrics"
    with quiet.another_api() as api, api.client(quiet.stack.admin_token) as other:
        before = [client.get(path) for client in (quiet.http, other)]
        assert {answer.json()["status"] for answer in before} == {status}
        assert all(answer.json()["terminal"] for answer in before)
        assert quiet.http.post(f"/jobs/{job.id}/retry").status_code == 202
        for client, old in zip((quiet.http, other), before, strict=True):
            answer = client.get(path, headers={"If-None-Match": old.headers["etag"]})
            assert (answer.status_code, answer.json()["status"], answer.json()["terminal"]) == (200, "queued", False)
        job.start()
        job.epochs(1, 3)
        for client in (quiet.http, other):
            view = client.get(path).json()
            assert (view["status"], [epoch["epoch"] for epoch in view["epochs"]]) == ("running", [1, 2, 3])
