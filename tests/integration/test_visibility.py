"""Whose jobs are read and changed by whom: everybody reads the lab's, or, by a setting, each their own."""

from collections.abc import Iterator
from typing import Any

import pytest

WAITS: dict[str, Any] = {"dataset": {"name": "digits"}, "network": {"name": "mlp"}}
READS = ["", "/metrics", "/result", "/logs", "/events"]


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    """A service without workers: jobs wait."""
    return start_service(workers=0)


@pytest.fixture(scope="module")
def ada(service: Any) -> Any:
    return service.client(service.new_user("ada"))


@pytest.fixture(scope="module")
def bob(service: Any) -> Any:
    return service.client(service.new_user("bob"))


@pytest.fixture(scope="module")
def job(ada: Any) -> str:
    return submitted(ada)


@pytest.fixture(scope="module")
def own_only(service: Any) -> Iterator[Any]:
    """Another API process on the same database, in which members see their own jobs alone."""
    with service.another_api(jobs_visible="own") as api:
        yield api


def submitted(client: Any) -> str:
    answer = client.post("/jobs", json=WAITS)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def moved(service: Any, job: str) -> Any:
    query = "SELECT status, (SELECT count(*) FROM transitions WHERE job_id = jobs.id) AS n FROM jobs WHERE id = %s"
    return service.rows(query, job)


def test_a_job_belongs_to_whoever_submits_it(service: Any, ada: Any, job: str) -> None:
    assert ada.get(f"/jobs/{job}").json()["user"] == "ada"
    rows = service.rows("SELECT users.name FROM users JOIN jobs ON users.id = jobs.user_id WHERE jobs.id = %s", job)
    assert rows == [{"name": "ada"}]


def test_members_read_the_labs_jobs(bob: Any, job: str) -> None:
    assert bob.get(f"/jobs/{job}").json()["user"] == "ada"
    assert bob.get(f"/jobs/{job}/metrics").status_code == 200
    assert bob.get(f"/jobs/{job}/logs").status_code == 200
    assert bob.get(f"/jobs/{job}/result").json()["code"] == "job_not_finished"
    assert job in [item["id"] for item in bob.get("/jobs", params={"limit": 100}).json()["items"]]


def test_a_foreign_job_is_not_changed(service: Any, bob: Any, job: str) -> None:
    before = moved(service, job)
    answer = bob.post(f"/jobs/{job}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (403, "not_yours")
    assert answer.headers["content-type"] == "application/problem+json"
    assert moved(service, job) == before
    assert service.http.get("/audit", params={"subject": f"job:{job}", "action": "job.cancel"}).json()["items"] == []


def test_an_admin_changes_everybodys_jobs(service: Any, ada: Any) -> None:
    job = submitted(ada)
    answer = service.http.post(f"/jobs/{job}/cancel")
    assert (answer.status_code, answer.json()["status"], answer.json()["user"]) == (202, "cancelled", "ada")


def test_a_token_that_reads_submits_and_cancels_nothing(service: Any, ada: Any, job: str) -> None:
    made = ada.post("/tokens", json={"name": "reads", "scopes": ["read"]}).json()
    reader = service.client(made["token"])
    before = service.rows("SELECT count(*) AS n FROM jobs")
    for path in ("/jobs", f"/jobs/{job}/cancel"):
        answer = reader.post(path, json=WAITS)
        assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope")
    assert reader.post("/jobs:validate", json=WAITS).status_code == 200
    assert service.rows("SELECT count(*) AS n FROM jobs") == before
    assert moved(service, job)[0]["status"] == "queued"


def test_a_disabled_users_jobs_stay(service: Any) -> None:
    job = submitted(service.client(service.new_user("gone")))
    service.http.delete("/users/gone")
    assert service.http.get(f"/jobs/{job}").json()["user"] == "gone"


@pytest.mark.parametrize("path", READS)
def test_where_members_see_their_own_a_foreign_job_is_as_if_it_were_not(
    own_only: Any, ada: Any, bob: Any, job: str, path: str
) -> None:
    unknown = "01a1fc05-96f8-74b8-9c20-173cf1283400"
    with own_only.client(token_of(bob)) as client:
        hidden, absent = client.get(f"/jobs/{job}{path}"), client.get(f"/jobs/{unknown}{path}")
        assert (hidden.status_code, hidden.json()["code"]) == (404, "job_not_found")
        assert hidden.json()["detail"].replace(job, unknown) == absent.json()["detail"]
    with own_only.client(token_of(ada)) as client:
        assert client.get(f"/jobs/{job}{path}").status_code in {200, 409}


def test_where_members_see_their_own_a_foreign_cancel_is_not_found(
    service: Any, own_only: Any, bob: Any, job: str
) -> None:
    with own_only.client(token_of(bob)) as client:
        answer = client.post(f"/jobs/{job}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")
    assert moved(service, job)[0]["status"] == "queued"


def test_where_members_see_their_own_a_list_holds_nothing_else(service: Any, own_only: Any, bob: Any, job: str) -> None:
    mine = [submitted(bob) for _ in range(3)]
    with own_only.client(token_of(bob)) as client:
        page = client.get("/jobs", params={"limit": 2}).json()
        rest = client.get("/jobs", params={"limit": 2, "after": page["next"]}).json()
        assert [item["id"] for item in page["items"] + rest["items"]] == mine[::-1]
    with own_only.client(service.stack.admin_token) as admin:
        assert job in [item["id"] for item in admin.get("/jobs", params={"limit": 100}).json()["items"]]


def token_of(client: Any) -> str:
    return str(client.headers["authorization"]).removeprefix("Bearer ")
