"""Limits in the queue: how many jobs of a user may wait, which priorities they may ask for, and who changes that."""

import time
from typing import Any

import pytest

from harness.jobs import DIGITS_MLP
from worker.sweeps.tick import advance_sweeps

STORED = ("jobs", "transitions", "audit", "sweeps", "idempotent_answers")


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    """A service without workers and scheduler, in which twenty jobs of a user may wait."""
    service = start_service(workers=0, max_queued=20)
    service.stack.kill_child("scheduler")
    return service


def limit(service: Any, member: Any, **limits: Any) -> str:
    """Change a member's part in the queue; return their name."""
    name = str(member.get("/me").json()["user"])
    answer = service.http.patch(f"/users/{name}", json=limits)
    assert answer.status_code == 200, answer.text
    return name


def stored(service: Any) -> dict[str, int]:
    return {table: int(service.rows(f"SELECT count(*) AS n FROM {table}")[0]["n"]) for table in STORED}


def require_full(answer: Any, waiting: int, most: int) -> None:
    assert (answer.status_code, answer.json()["code"]) == (429, "queue_limit"), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert f"{waiting} jobs of this user wait, and {most} may" in answer.json()["detail"]


def test_no_more_jobs_wait_than_the_limit_and_nothing_is_left_of_the_one_too_many(service: Any, member: Any) -> None:
    limit(service, member, max_queued=2)
    first, _ = (member.post("/jobs", json=DIGITS_MLP).json()["id"] for _ in range(2))
    before = stored(service)
    require_full(member.post("/jobs", json=DIGITS_MLP), 2, 2)
    require_full(member.post("/jobs", json=DIGITS_MLP, headers={"Idempotency-Key": "full"}), 2, 2)
    assert stored(service) == before
    member.post(f"/jobs/{first}/cancel")
    again = member.post("/jobs", json=DIGITS_MLP, headers={"Idempotency-Key": "full"})
    assert again.status_code == 201, "a refusal is not kept for the key"
    require_full(member.post("/jobs", json=DIGITS_MLP), 2, 2)


def test_jobs_that_run_or_have_ended_do_not_count(service: Any, member: Any) -> None:
    limit(service, member, max_queued=1)
    for status in ("running", "paused", "succeeded"):
        job = member.post("/jobs", json=DIGITS_MLP).json()["id"]
        service.rows("UPDATE jobs SET status = %s WHERE id = %s", status, job)
    assert member.post("/jobs", json=DIGITS_MLP).status_code == 201


def test_a_limit_of_nothing_lets_nothing_wait_and_null_gives_the_services_own_back(service: Any, member: Any) -> None:
    name = limit(service, member, max_queued=0)
    require_full(member.post("/jobs", json=DIGITS_MLP), 0, 0)
    limit(service, member, max_queued=None)
    assert (service.http.get(f"/users/{name}").json()["max_queued"], member.get("/me").json()["max_queued"]) == (
        None,
        20,
    )
    assert member.post("/jobs:batch", json={"jobs": [DIGITS_MLP] * 20}).status_code == 201
    require_full(member.post("/jobs", json=DIGITS_MLP), 20, 20)


def test_a_batch_of_all_is_stored_as_a_whole_or_not_at_all(service: Any, member: Any) -> None:
    limit(service, member, max_queued=3)
    member.post("/jobs", json=DIGITS_MLP)
    before = stored(service)
    answer = member.post("/jobs:batch", json={"jobs": [DIGITS_MLP] * 3})
    require_full(answer, 1, 3)
    assert answer.json()["detail"].endswith("there is no room for 3 more.")
    assert stored(service) == before
    assert member.post("/jobs:batch", json={"jobs": [DIGITS_MLP] * 2}).status_code == 201


def test_of_a_batch_of_each_what_there_is_room_for_is_stored(service: Any, member: Any) -> None:
    limit(service, member, max_queued=2)
    bad = DIGITS_MLP | {"training": {"epochs": 0}}
    batch = {"jobs": [DIGITS_MLP, bad, DIGITS_MLP, DIGITS_MLP], "mode": "each"}
    items = member.post("/jobs:batch", json=batch).json()["items"]
    assert [item["status"] for item in items] == [201, 422, 201, 429]
    assert items[-1]["error"]["code"] == "queue_limit"
    assert "2 jobs of this user wait, and 2 may" in items[-1]["error"]["detail"]
    name = member.get("/me").json()["user"]
    assert len(service.http.get("/jobs", params={"user": name}).json()["items"]) == 2


def test_the_points_of_a_sweep_wait_for_room(service: Any, member: Any) -> None:
    limit(service, member, max_queued=2)
    member.post("/jobs", json=DIGITS_MLP)
    body = {
        "spec": DIGITS_MLP,
        "parameters": {"kind": "grid", "values": {"training.epochs": [1, 2, 3]}},
        "objective": "validation_loss",
        "max_concurrent": 3,
    }
    sweep = member.post("/sweeps", json=body).json()["id"]

    def tried() -> list[str]:
        advance_sweeps(service.sessions, max_queued=20)
        return [point["status"] for point in member.get(f"/sweeps/{sweep}").json()["leaderboard"]]

    assert tried() == ["queued"]
    assert tried() == ["queued"]
    service.rows("UPDATE jobs SET status = 'running' WHERE sweep_id = %s", sweep)
    assert sorted(tried()) == ["queued", "running"]
    limit(service, member, max_queued=None)
    assert sorted(tried()) == ["queued", "queued", "running"]


@pytest.mark.parametrize("priority", [11, 100])
def test_a_member_asks_for_no_priority_above_the_bound(service: Any, member: Any, priority: int) -> None:
    before = stored(service)
    high = DIGITS_MLP | {"priority": priority}
    refused = member.post("/jobs", json=high)
    assert (refused.status_code, refused.json()["code"]) == (422, "priority_not_allowed")
    assert refused.json()["errors"] == [
        {
            "loc": "priority",
            "message": "Members may ask for a priority from -100 to 10.",
            "code": "priority_not_allowed",
        }
    ]
    batch = member.post("/jobs:batch", json={"jobs": [DIGITS_MLP, high]})
    assert [(error["loc"], error["code"]) for error in batch.json()["errors"]] == [
        ("jobs.1.priority", "priority_not_allowed")
    ]
    grid = {"kind": "grid", "values": {"priority": [0, priority]}}
    sweep = member.post("/sweeps", json={"spec": DIGITS_MLP, "parameters": grid, "objective": "validation_loss"})
    assert [(error["loc"], error["code"]) for error in sweep.json()["errors"]] == [
        ("parameters.values.priority.1", "priority_not_allowed")
    ]
    base = member.post(
        "/sweeps",
        json={"spec": high, "parameters": {"kind": "grid", "values": {"training.epochs": [1]}}}
        | {"objective": "validation_loss"},
    )
    assert [error["loc"] for error in base.json()["errors"]] == ["spec.priority"]
    assert stored(service) == before


def test_members_and_admins_have_what_is_within_their_bounds(service: Any, member: Any) -> None:
    for client, priorities in ((member, (-100, 0, 10)), (service.http, (-100, 100))):
        for priority in priorities:
            answer = client.post("/jobs", json=DIGITS_MLP | {"priority": priority})
            assert (answer.status_code, answer.json()["priority"]) == (201, priority)
    for bad in (-101, 101, 1.5, "5", True):
        answer = service.http.post("/jobs", json=DIGITS_MLP | {"priority": bad})
        assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, "priority")


def test_the_bounds_are_settings(service: Any, member: Any) -> None:
    token = member.headers["Authorization"].removeprefix("Bearer ")
    with service.another_api(member_max_priority=0, member_min_priority=-1) as api, api.client(token) as other:
        asked = (DIGITS_MLP | {"priority": priority} for priority in (-2, -1, 0, 1))
        statuses = [other.post("/jobs", json=spec).status_code for spec in asked]
    assert statuses == [422, 201, 201, 422]


def test_an_admin_changes_a_users_part_in_the_queue_and_the_user_sees_it(service: Any, member: Any) -> None:
    assert {name: member.get("/me").json()[name] for name in ("weight", "max_running", "max_queued")} == {
        "weight": 1.0,
        "max_running": None,
        "max_queued": 20,
    }
    name = limit(service, member, weight=2.5, max_running=4, max_queued=7)
    expected = {"weight": 2.5, "max_running": 4, "max_queued": 7}
    for shown in (service.http.get(f"/users/{name}").json(), member.get("/me").json()):
        assert {field: shown[field] for field in expected} == expected
    listed = service.http.get("/users", params={"limit": 100}).json()["items"]
    assert [user["weight"] for user in listed if user["name"] == name] == [2.5]
    limit(service, member, weight=2.5)
    limit(service, member, weight=None, max_running=None)
    query = "SELECT weight, max_running, max_queued FROM shares JOIN users ON users.id = user_id WHERE name = %s"
    assert service.rows(query, name) == [{"weight": 2.5, "max_running": None, "max_queued": 7}]
    audit = service.http.get("/audit", params={"subject": f"user:{name}", "action": "user.update"}).json()["items"]
    assert [entry["detail"] for entry in audit] == [{"max_running": None}, expected]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"weight": 0}, "greater_than_equal"),
        ({"weight": 1e-310}, "greater_than_equal"),
        ({"weight": 1_001}, "less_than_equal"),
        ({"weight": "2"}, "float_type"),
        ({"weight": True}, "float_type"),
        ({"max_running": -1}, "greater_than_equal"),
        ({"max_running": 1.5}, "int_type"),
        ({"max_queued": 2**63}, "less_than_equal"),
        ({"max_jobs": 1}, "extra_forbidden"),
    ],
)
def test_a_bad_part_in_the_queue_is_refused_at_its_field(
    service: Any, member: Any, change: dict[str, Any], code: str
) -> None:
    name = member.get("/me").json()["user"]
    answer = service.http.patch(f"/users/{name}", json=change)
    assert answer.status_code == 422, answer.text
    assert [(error["loc"], error["code"]) for error in answer.json()["errors"]] == [(*change, code)]
    assert service.rows("SELECT * FROM shares JOIN users ON users.id = user_id WHERE name = %s", name) == []
    assert member.patch(f"/users/{name}", json={"weight": 3}).json()["code"] == "admin_only"


def test_a_user_runs_no_more_jobs_at_once_than_allowed(start_service: Any) -> None:
    service = start_service(slots=2)
    member = service.client(service.new_user("ada"))
    limit(service, member, max_running=1)
    slow = DIGITS_MLP | {"training": {"epochs": 10_000, "batch_size": 8}}
    jobs = [member.post("/jobs", json=slow).json()["id"] for _ in range(2)]
    service.wait_for(jobs[0], lambda view: view["status"] == "running", 120)
    time.sleep(2.5)  # for longer than an idle slot, or the line, waits before it looks again
    other = service.wait_for(jobs[1], lambda view: view["queue"]["reason"] == "user_limit")
    assert other["status"] == "queued"
    member.post(f"/jobs/{jobs[0]}/cancel")
    service.wait_for(jobs[1], lambda view: view["status"] == "running", 120)
    member.post(f"/jobs/{jobs[1]}/cancel")
    assert [row["n"] for row in service.rows("SELECT count(*) AS n FROM attempts GROUP BY job_id")] == [1, 1]
