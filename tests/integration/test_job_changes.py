"""Changing a waiting job: its priority, name and tags, by whom, and in which status."""

from typing import Any

import pytest

SPEC: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "network": {"name": "mlp"},
    "name": "first",
    "tags": ["hw4"],
}
STATUSES = ("running", "pausing", "paused", "cancelling", "cancelled", "succeeded", "failed")


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    """A service without workers: jobs wait."""
    return start_service(workers=0)


@pytest.fixture
def job(member: Any) -> str:
    """A waiting job of the member's."""
    return str(member.post("/jobs", json=SPEC).json()["id"])


def row(service: Any, job: str) -> dict[str, Any]:
    query = "SELECT name, priority, spec, status, message, attempt FROM jobs WHERE id = %s"
    found: dict[str, Any] = service.rows(query, job)[0]
    return found


def audit(service: Any, job: str) -> list[Any]:
    entries = service.http.get("/audit", params={"subject": f"job:{job}", "action": "job.update"}).json()["items"]
    return [(entry["user"], entry["detail"]) for entry in entries]


def test_priority_name_and_tags_change_in_the_row_in_the_spec_and_in_lists(service: Any, member: Any, job: str) -> None:
    change = {"priority": 7, "name": "second", "tags": ["hw5", "urgent"]}
    answer = member.patch(f"/jobs/{job}", json=change)
    assert answer.status_code == 200, answer.text
    shown = service.job(job)
    assert answer.json() == shown | {"queue": {"name": "default"}}
    assert (shown["name"], shown["priority"], shown["spec"]["tags"]) == ("second", 7, ["hw5", "urgent"])
    stored = row(service, job)
    assert (stored["name"], stored["priority"]) == ("second", 7)
    assert {field: stored["spec"][field] for field in change} == change
    name = member.get("/me").json()["user"]
    for query, found in (("tag=hw5&tag=urgent", [job]), ("tag=hw4", []), ("text=second", [job]), ("text=first", [])):
        listed = member.get(f"/jobs?user={name}&{query}").json()["items"]
        assert [item["id"] for item in listed] == found
    assert audit(service, job) == [(name, change)]


def test_what_is_left_out_stays_and_a_null_name_is_taken_away(service: Any, member: Any, job: str) -> None:
    before = row(service, job)
    for change in ({}, {"priority": None, "tags": None}, {"name": "first"}):
        assert member.patch(f"/jobs/{job}", json=change).status_code == 200
    assert row(service, job) == before
    assert audit(service, job) == []
    assert member.patch(f"/jobs/{job}", json={"name": None}).json()["name"] is None
    stored = row(service, job)
    assert (stored["name"], stored["spec"]["name"], stored["spec"]["tags"]) == (None, None, ["hw4"])


def test_a_higher_priority_goes_to_the_front_of_the_line(service: Any, member: Any, job: str) -> None:
    later = member.post("/jobs", json=SPEC).json()["id"]
    member.patch(f"/jobs/{later}", json={"priority": 10})
    name = member.get("/me").json()["user"]
    found: list[str] = []
    while len(found) < 2 or found[0] != later:  # it is kept for two seconds
        found = [item["job_id"] for item in service.http.get("/queue", params={"user": name}).json()["items"]]
    assert found == [later, job]


@pytest.mark.parametrize("status", STATUSES)
def test_a_job_that_does_not_wait_is_not_changed_and_its_status_is_named(
    service: Any, member: Any, job: str, status: str
) -> None:
    service.rows("UPDATE jobs SET status = %s WHERE id = %s", status, job)
    before = row(service, job)
    answer = member.patch(f"/jobs/{job}", json={"priority": 1, "name": "second"})
    assert (answer.status_code, answer.json()["code"]) == (409, "illegal_move")
    assert status in answer.json()["detail"]
    assert row(service, job) == before
    assert audit(service, job) == []
    service.rows("DELETE FROM jobs WHERE id = %s", job)


def test_only_its_owner_or_an_admin_changes_a_job(service: Any, member: Any, job: str) -> None:
    other = service.client(service.new_user(f"other-{job[-8:]}"))
    before = row(service, job)
    answer = other.patch(f"/jobs/{job}", json={"priority": -50})
    assert (answer.status_code, answer.json()["code"]) == (403, "not_yours")
    assert row(service, job) == before
    assert service.http.patch(f"/jobs/{job}", json={"priority": 99}).json()["priority"] == 99
    assert audit(service, job) == [("admin", {"priority": 99})]
    kept = member.patch(f"/jobs/{job}", json={"priority": 99, "name": "mine"})
    assert (kept.status_code, kept.json()["priority"]) == (200, 99), "what an admin gave is not asked for again"


def test_a_member_raises_no_job_above_the_bound(service: Any, member: Any, job: str) -> None:
    before = row(service, job)
    answer = member.patch(f"/jobs/{job}", json={"priority": 11, "name": "second"})
    assert (answer.status_code, answer.json()["code"]) == (422, "priority_not_allowed")
    assert [error["loc"] for error in answer.json()["errors"]] == ["priority"]
    assert row(service, job) == before
    assert audit(service, job) == []


@pytest.mark.parametrize(
    ("change", "loc", "code"),
    [
        ({"priority": 101}, "priority", "less_than_equal"),
        ({"priority": "1"}, "priority", "int_type"),
        ({"priority": True}, "priority", "int_type"),
        ({"name": ""}, "name", "string_too_short"),
        ({"name": "nul\x00"}, "name", "unprintable_text"),
        ({"tags": ["x"] * 21}, "tags", "too_long"),
        ({"tags": ["x" * 65]}, "tags.0", "string_too_long"),
        ({"tags": "hw4"}, "tags", "list_type"),
        ({"queue": "night"}, "queue", "extra_forbidden"),
        ({"status": "succeeded"}, "status", "extra_forbidden"),
    ],
)
def test_a_bad_change_is_refused_at_its_field(
    service: Any, member: Any, job: str, change: dict[str, Any], loc: str, code: str
) -> None:
    before = row(service, job)
    answer = member.patch(f"/jobs/{job}", json=change)
    assert answer.status_code == 422, answer.text
    assert [(error["loc"], error["code"]) for error in answer.json()["errors"]] == [(loc, code)]
    assert row(service, job) == before


def test_a_job_that_is_not_there_is_not_changed(member: Any) -> None:
    answer = member.patch("/jobs/01a1fc05-96f8-74b8-9c20-173cf1283400", json={"priority": 1})
    assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")
