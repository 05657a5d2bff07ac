"""The events of a job: complete, in one order, and without a gap for who asks again and again."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest

from harness.jobs import CHECKPOINT, claimed, trained
from models.faults import FaultPoint
from models.line import Offer
from worker.attempt import AttemptRecord
from worker.leases import expire_leases

EPOCHS = 3
SPEC = {"dataset": {"name": "digits"}, "network": {"name": "mlp", "hidden": [8]}, "training": {"epochs": EPOCHS}}
LONG = SPEC | {"training": {"epochs": 1_000}}
NOBODYS = SPEC | {"queue": "nobodys"}  # which no worker serves
OFFER = Offer(["nobodys"], free_slots=1)
BLOCKED = "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    return start_service(slots=2, fault_points=True, lease_seconds=600)


def events(service: Any, job: str, **query: int) -> list[dict[str, Any]]:
    answer = service.http.get(f"/jobs/{job}/events", params={"limit": 100} | query)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["items"])


def types(found: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in found]


@pytest.fixture(scope="module")
def finished(service: Any) -> str:
    """A job that has succeeded."""
    job = service.submit(SPEC)
    assert service.wait_for_end(job)["status"] == "succeeded"
    return str(job)


def test_a_job_tells_its_life_in_order(service: Any, finished: str) -> None:
    found = events(service, finished)
    assert types(found) == ["submitted", "claimed", "started", *["epoch", "checkpoint"] * EPOCHS, "finished"]
    assert [event["id"] for event in found] == sorted({event["id"] for event in found})
    assert [event["at"] for event in found] == sorted(event["at"] for event in found)
    assert [event["attempt"] for event in found] == [0, *[1] * (len(found) - 1)]
    assert [event["epoch"] for event in found if event["type"] == "checkpoint"] == [1, 2, 3]
    assert (found[-1]["status"], found[-1]["reason"]) == ("succeeded", None)
    rows = service.rows("SELECT checkpoint_sha256 AS sha256 FROM epochs WHERE job_id = %s ORDER BY epoch", finished)
    assert [event["data"]["sha256"] for event in found if event["type"] == "checkpoint"] == [
        row["sha256"] for row in rows
    ]


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_pages_hold_each_event_once(service: Any, finished: str, limit: int) -> None:
    whole, after = [], 0
    while after is not None:
        page = service.http.get(f"/jobs/{finished}/events", params={"limit": limit, "after": after}).json()
        assert len(page["items"]) <= limit
        whole += page["items"]
        after = page["next"]
    assert whole == events(service, finished)
    assert events(service, finished, after=whole[-1]["id"]) == []


@pytest.mark.parametrize("after", ["-1", "x", "1.5", str(2**63)])
def test_an_after_that_is_no_id_is_refused(service: Any, finished: str, after: str) -> None:
    answer = service.http.get(f"/jobs/{finished}/events?after={after}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert "after" in answer.json()["detail"]


def test_every_change_of_status_is_one_event(service: Any) -> None:
    job = service.submit(LONG)
    service.wait_for_epoch(job, 1)
    assert service.http.post(f"/jobs/{job}/pause").status_code == 202
    service.wait_for(job, lambda view: view["status"] == "paused")
    assert service.http.post(f"/jobs/{job}/resume").status_code == 202
    service.wait_for(job, lambda view: view["status"] == "running" and view["attempt"] == 2)
    assert service.http.post(f"/jobs/{job}/cancel").status_code == 202
    view = service.wait_for_end(job)
    assert service.http.post(f"/jobs/{job}/retry").status_code == 202
    service.http.post(f"/jobs/{job}/cancel")
    view = service.wait_for_end(job)

    moves = [event for event in events_to_the_end(service, job) if event["status"] is not None]
    assert [(event["status"], event["reason"], event["message"]) for event in moves] == [
        (move["to_status"], move["reason"], move["message"]) for move in view["transitions"]
    ]
    told = types(moves)
    assert told[:8] == ["submitted", "claimed", "pausing", "paused", "resumed", "claimed", "cancelling", "finished"]
    assert told[8] == "retried"
    assert told[-1] == "finished"


def events_to_the_end(service: Any, job: str, after: int = 0) -> list[dict[str, Any]]:
    whole: list[dict[str, Any]] = []
    while page := events(service, job, after=after):
        whole += page
        after = page[-1]["id"]
    return whole


def test_who_asks_all_the_time_misses_nothing(service: Any) -> None:
    job = service.submit(SPEC | {"training": {"epochs": 400}})
    seen: list[dict[str, Any]] = []
    ended = threading.Event()

    def poll() -> None:
        while not ended.is_set():
            seen.extend(events(service, job, after=seen[-1]["id"] if seen else 0, limit=7))

    with ThreadPoolExecutor(2) as pool:
        polling = [pool.submit(poll)]
        try:
            service.wait_for_epoch(job, 5)
            assert service.http.post(f"/jobs/{job}/pause").status_code == 202
            service.wait_for(job, lambda view: view["status"] == "paused")
            service.http.post(f"/jobs/{job}/resume")
            assert service.wait_for_end(job)["status"] == "succeeded"
        finally:
            ended.set()
        for one in polling:
            one.result()
    seen += events_to_the_end(service, job, seen[-1]["id"])
    assert seen == events_to_the_end(service, job)
    assert [event["epoch"] for event in seen if event["type"] == "epoch"] == list(range(1, 401))


def test_what_is_written_later_waits_for_what_has_an_earlier_id(service: Any) -> None:
    job = service.submit(LONG)
    with ThreadPoolExecutor(1) as pool:
        with service.faults.holding(FaultPoint.EPOCH_TRANSACTION) as held:
            held()  # an epoch and its checkpoint have their ids, and are not committed
            before = events(service, job)
            cancel = pool.submit(service.http.post, f"/jobs/{job}/cancel")
            while not service.rows(BLOCKED)[0]["n"]:
                assert not cancel.done(), "it waits for the job's row"
            assert events(service, job) == before, "neither is to be seen"
        assert cancel.result().status_code == 202
    service.wait_for_end(job)
    later = types(events_to_the_end(service, job, before[-1]["id"]))
    assert later[:2] == ["epoch", "checkpoint"]
    assert "cancelling" in later[2:]


def test_a_write_that_is_repeated_adds_no_event(service: Any) -> None:
    job = service.submit(NOBODYS)
    claim = claimed(service.sessions, OFFER, lease_seconds=600)
    # As a supervisor does that did not hear of its commits: one that begins anew knows of none.
    for record in (AttemptRecord(service.sessions, claim), AttemptRecord(service.sessions, claim)):
        for _ in range(2):
            record.say("Works.")
            record.skip_checkpoint(CHECKPOINT, "It is damaged.")
            record.add_epoch(trained(), CHECKPOINT)
    found = events(service, job)
    assert types(found) == ["submitted", "claimed", "started", "checkpoint_skipped", "epoch", "checkpoint"]
    assert found[3]["message"] == "The checkpoint of epoch 1 was passed over for an older one: It is damaged."
    AttemptRecord(service.sessions, claim).fail("time_limit", "Over.", retry_limit=0)
    assert (events(service, job)[-1]["status"], events(service, job)[-1]["reason"]) == ("failed", "time_limit")


@pytest.mark.parametrize(
    ("asked", "retry", "told"),
    [
        ("pause", {}, ["pausing", "lease_lost", "paused"]),
        ("cancel", {}, ["cancelling", "lease_lost", "finished"]),
        (None, {"limit": 0}, ["lease_lost", "finished"]),
        (None, {}, ["lease_lost"]),
    ],
)
def test_a_lost_lease_is_told_whatever_becomes_of_the_job(
    service: Any, asked: str | None, retry: dict[str, int], told: list[str]
) -> None:
    job = service.submit(NOBODYS | {"retry": retry})
    claim = claimed(service.sessions, OFFER, lease_seconds=600)
    assert str(claim.job_id) == job
    if asked is not None:
        assert service.http.post(f"/jobs/{job}/{asked}").status_code == 202
    service.rows("UPDATE jobs SET lease_expires_at = now() - interval '1 second' WHERE id = %s", job)
    ended: list[UUID] = []
    while claim.job_id not in ended:  # worker and scheduler look as well, and lock the row as they do
        with service.sessions.begin() as session:
            ended = expire_leases(session, retry_limit=3, lease_seconds=0)
    service.wait_for(job, lambda view: view["status"] in ("paused", "cancelled", "failed", "queued"))
    found = events(service, job)
    assert types(found) == ["submitted", "claimed", *told]
    (lost,) = [event for event in found if event["type"] == "lease_lost"]
    assert lost["attempt"] == 1
    assert lost["message"].startswith("The worker was lost.")
    service.http.post(f"/jobs/{job}/cancel")


def test_events_of_no_job_are_not_found(service: Any) -> None:
    answer = service.http.get("/jobs/01a1fea7-cc55-717b-ab60-22921c18cc94/events")
    assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")
