"""The audit: a row for every change, with its request; none for what was refused or changed nothing."""

from typing import Any

import pytest

WAITS: dict[str, Any] = {"dataset": {"name": "digits"}, "network": {"name": "mlp"}}


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    """A service without workers: jobs wait."""
    return start_service(workers=0)


def entries(service: Any, **filters: Any) -> list[dict[str, Any]]:
    answer = service.http.get("/audit", params={"limit": 100} | filters)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def count(service: Any) -> Any:
    return service.rows("SELECT count(*) AS n FROM audit")


def test_a_submit_and_a_cancel_are_recorded_with_who_what_and_in_which_request(service: Any) -> None:
    token = service.new_user("ada")
    ada = service.client(token)
    job = ada.post("/jobs", json=WAITS, headers={"x-request-id": "submit-1"}).json()["id"]
    ada.post(f"/jobs/{job}/cancel", headers={"x-request-id": "cancel-1"})
    cancel, submit = entries(service, subject=f"job:{job}")
    assert (submit["action"], submit["request_id"]) == ("job.submit", "submit-1")
    assert (cancel["action"], cancel["request_id"]) == ("job.cancel", "cancel-1")
    for entry in (cancel, submit):
        assert (entry["user"], entry["token"]) == ("ada", token.rpartition("_")[0])
    assert submit["at"] < cancel["at"]


def test_users_and_tokens_are_recorded(service: Any) -> None:
    service.http.post("/users", json={"name": "grace"})
    service.http.patch("/users/grace", json={"role": "admin"})
    made = service.http.post("/tokens", json={"name": "laptop", "user": "grace"}).json()
    service.http.delete(f"/tokens/{made['id']}")
    service.http.delete("/users/grace")
    users = [(entry["action"], entry["detail"]) for entry in entries(service, subject="user:grace")]
    assert users == [
        ("user.disable", {"revoked_tokens": 0}),
        ("user.update", {"role": "admin"}),
        ("user.create", {"role": "member"}),
    ]
    tokens = [(entry["action"], entry["user"]) for entry in entries(service, subject=f"token:{made['id']}")]
    assert tokens == [("token.revoke", "admin"), ("token.create", "admin")]
    assert made["token"].rpartition("_")[2] not in str(entries(service))


def test_what_is_refused_or_changes_nothing_leaves_no_row(service: Any) -> None:
    member = service.client(service.new_user("bob"))
    job = service.submit(WAITS)
    service.http.post(f"/jobs/{job}/cancel")
    before = count(service)
    refused = [
        member.post(f"/jobs/{job}/cancel"),
        member.post("/jobs", json={"dataset": {"name": "digits"}}),
        member.post("/users", json={"name": "eve"}),
        member.delete("/users/admin"),
        service.http.post("/users", json={"name": "bob"}),
        service.http.delete("/users/admin"),
        service.http.post("/tokens", json={"name": "t", "user": "nobody"}),
        service.anonymous().post("/jobs", json=WAITS),
    ]
    assert all(answer.status_code >= 400 for answer in refused)
    unchanged = [
        service.http.post(f"/jobs/{job}/cancel"),
        service.http.patch("/users/bob", json={}),
        service.http.patch("/users/bob", json={"role": "member", "disabled": False}),
        service.http.post("/jobs:validate", json=WAITS),
        service.http.get("/audit"),
    ]
    assert all(answer.status_code < 300 for answer in unchanged)
    assert count(service) == before


def test_the_audit_is_read_newest_first_in_pages_while_more_arrives(service: Any) -> None:
    for number in range(5):
        service.http.post("/users", json={"name": f"page-{number}"})
    seen: list[str] = []
    after: int | None = None
    while len(seen) < 5:
        params = {"action": "user.create", "limit": 2} | ({"after": after} if after else {})
        page = service.http.get("/audit", params=params).json()
        seen += [entry["subject"] for entry in page["items"]]
        after = page["next"]
        service.http.post("/users", json={"name": f"later-{len(seen)}"})
    assert seen[:5] == [f"user:page-{number}" for number in reversed(range(5))]


def test_filters_narrow_the_audit(service: Any) -> None:
    ada = service.client(service.new_user("filters"))
    job = ada.post("/jobs", json=WAITS).json()["id"]
    assert [entry["action"] for entry in entries(service, user="filters")] == ["job.submit"]
    assert entries(service, user="filters", action="job.cancel") == []
    assert [entry["user"] for entry in entries(service, action="job.submit", subject=f"job:{job}")] == ["filters"]
    assert entries(service, user="nobody") == []
    assert entries(service, subject="'; DROP TABLE audit; --") == []


@pytest.mark.parametrize(
    "params",
    [
        {"limit": 0},
        {"limit": 101},
        {"limit": "x"},
        {"after": 0},
        {"after": 2**63},
        {"user": ""},
        {"user": "x" * 201},
        {"action": "nul\x00"},
    ],
)
def test_a_bad_filter_is_refused(service: Any, params: dict[str, Any]) -> None:
    answer = service.http.get("/audit", params=params)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
