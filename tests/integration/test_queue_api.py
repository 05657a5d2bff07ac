"""The queue over HTTP: the line with places, reasons and estimates, a job's own part of it, and named queues."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import pytest

from harness.jobs import DIGITS_MLP

GIB = 2**30
NOTHING = dict.fromkeys(["position", "reason", "message", "starts_at", "finishes_at", "no_estimate"])


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    """A service whose workers are rows: nothing changes by itself."""
    service = start_service(workers=0)
    service.stack.kill_child("scheduler")
    return service


@pytest.fixture(scope="module")
def people(service: Any) -> dict[str, Any]:
    """Clients of two members."""
    return {name: service.client(service.new_user(name)) for name in ("ada", "bob")}


@pytest.fixture(autouse=True)
def _empty(service: Any) -> None:
    service.rows("DELETE FROM jobs")
    service.rows("DELETE FROM workers")
    service.rows("DELETE FROM queues")
    service.rows("DELETE FROM shares")


def submit(client: Any, **changes: Any) -> str:
    answer = client.post("/jobs", json=DIGITS_MLP | changes)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def add_worker(service: Any, name: str, *, slots: int = 1, queues: Any = ("default",), gpus: Any = ()) -> None:
    """Add the row of a worker that is online; `gpus` are the GiB of each."""
    rows = [{"uuid": f"{name}-{n}", "name": "A6000", "memory_bytes": size * GIB} for n, size in enumerate(gpus)]
    service.rows(
        "INSERT INTO workers (id, name, instance, host, version, queues, slots, cores, processor, memory_bytes, gpus,"
        " load, lease_seconds) VALUES (%s, %s, '', '', '', %s, %s, 8, '', 1, %s, '{}', 3600)",
        uuid4(), name, list(queues), slots, json.dumps(rows),
    )  # fmt: skip


def let_run(service: Any, job: str, worker: str, *, gpus: Any = (), seconds: float | None = None, ago: int = 0) -> None:
    """Write the rows of a job that a worker has claimed, with an estimate of so many seconds."""
    service.rows(
        "UPDATE jobs SET status = 'running', attempt = 1, estimated_seconds = %s,"
        " lease_expires_at = clock_timestamp() + interval '1 hour' WHERE id = %s", seconds, job,
    )  # fmt: skip
    service.rows(
        "INSERT INTO attempts (job_id, number, worker, gpus, started_at)"
        " VALUES (%s, 1, %s, %s, clock_timestamp() - make_interval(secs => %s))", job, worker, list(gpus), ago,
    )  # fmt: skip


def line(service: Any, client: Any = None, **query: Any) -> Any:
    """Return a page of the line as it is now: one that was worked out before is waited out."""
    now = service.rows("SELECT clock_timestamp() AS now")[0]["now"]
    client = client or service.http
    while True:
        answer = client.get("/queue", params=query)
        assert answer.status_code == 200, answer.text
        if datetime.fromisoformat(answer.json()["as_of"]) > now:
            return answer.json()
        time.sleep(0.05)


def places(page: Any) -> list[tuple[int, str]]:
    return [(item["position"], item["job_id"]) for item in page["items"]]


def reasons(service: Any) -> dict[str, str]:
    return {item["job_id"]: item["reason"] for item in line(service, limit=100)["items"]}


def test_where_nobody_waits_the_line_is_empty_and_the_slots_are_free(service: Any) -> None:
    add_worker(service, "lab-1", slots=3)
    add_worker(service, "lab-2", slots=2, gpus=[24, 24])
    page = line(service)
    assert (page["items"], page["next"]) == ([], None)
    assert page["totals"] == {"waiting": 0, "running": 0, "free_slots": {"gpu": 2, "cpu": 3}}


def test_the_line_goes_by_priority_then_submission_and_positions_count_over_the_whole_lab(
    service: Any, people: Any
) -> None:
    first, low, high = (submit(people["ada"], priority=priority) for priority in (0, -5, 9))
    elsewhere = submit(people["ada"], queue="night")
    assert places(line(service)) == [(1, high), (2, first), (3, elsewhere), (4, low)]
    assert places(line(service, queue="night")) == [(3, elsewhere)]
    assert places(line(service, user="ada", after=1, limit=2)) == [(2, first), (3, elsewhere)]
    assert line(service, user="nobody")["items"] == []
    item = line(service)["items"][0]
    assert (item["user"], item["queue"], item["priority"], item["effective_priority"]) == ("ada", "default", 9, 9)


def test_pages_of_the_line_neither_skip_nor_repeat(service: Any, people: Any) -> None:
    jobs = [submit(people["ada"], name=f"job {n}") for n in range(7)]
    seen: list[str] = []
    after: int | None = 0
    line(service)
    while after is not None:
        page = service.http.get("/queue", params={"after": after, "limit": 3}).json()
        seen += [item["name"] for item in page["items"]]
        after = page["next"]
    assert seen == [f"job {n}" for n in range(7)]
    assert len(jobs) == 7


def test_users_take_turns_and_who_has_used_less_is_named_as_ahead(service: Any, people: Any) -> None:
    adas = [submit(people["ada"]) for _ in range(2)]
    bobs = [submit(people["bob"]) for _ in range(2)]
    service.rows(
        "INSERT INTO shares (user_id, cpu_seconds) SELECT id, 5000 FROM users WHERE name = 'ada'"
        " ON CONFLICT (user_id) DO UPDATE SET cpu_seconds = 5000"
    )
    page = line(service)
    assert [item["job_id"] for item in page["items"]] == [*bobs, *adas]
    first, last = page["items"][0], page["items"][-1]
    assert (first["ahead_by_share"], last["ahead_by_share"]) == ([], ["bob"])
    assert first["share"] < 1 < 4_000 < last["share"]


def test_each_waiting_job_says_why(service: Any, people: Any) -> None:
    on_cpu = {"resources": {"device": "cpu"}}
    add_worker(service, "lab-1", slots=1)
    add_worker(service, "lab-2", slots=2, gpus=[24], queues=["gpu"])
    service.rows("INSERT INTO queues (name, paused_at) VALUES ('closed', clock_timestamp())")
    service.rows("INSERT INTO shares (user_id, max_running) SELECT id, 0 FROM users WHERE name = 'bob'")
    let_run(service, submit(service.http, **on_cpu), "lab-1")
    expected = {
        submit(people["ada"], **on_cpu): "no_free_slot",
        submit(people["ada"], queue="nobody-serves-it"): "no_worker_for_queue",
        submit(people["ada"], queue="closed"): "queue_paused",
        submit(people["bob"], **on_cpu): "user_limit",
        submit(people["ada"], queue="gpu", resources={"device": "cuda", "gpus": 2}): "needs_more_gpus",
        submit(people["ada"], queue="gpu", resources={"device": "cuda", "gpu_memory_gb": 40}): "needs_more_memory",
    }
    waits = submit(people["ada"], **on_cpu)
    service.rows("UPDATE jobs SET unmet = 1 WHERE id = %s", waits)
    expected[waits] = "waits_for_jobs"
    assert reasons(service) == expected
    for job, reason in expected.items():
        queue = service.job(job)["queue"]
        assert (queue["reason"], queue["message"] != "") == (reason, True)


def test_estimates_play_the_line_forward(service: Any, people: Any) -> None:
    add_worker(service, "lab-1", slots=1)
    let_run(service, submit(people["ada"]), "lab-1", seconds=100, ago=40)
    second, third, unmeasured, last = (submit(people["ada"]) for _ in range(4))
    service.rows("UPDATE jobs SET estimated_seconds = 30 WHERE id = ANY(%s)", [UUID(second), UUID(third), UUID(last)])
    page = line(service)
    as_of = datetime.fromisoformat(page["as_of"])
    assert [item["job_id"] for item in page["items"]] == [second, third, unmeasured, last]
    seconds = [
        [None if item[at] is None else (datetime.fromisoformat(item[at]) - as_of).total_seconds() for at in
         ("starts_at", "finishes_at")] for item in page["items"]
    ]  # fmt: skip
    assert seconds[0] == [pytest.approx(60, abs=5), pytest.approx(90, abs=5)]
    assert seconds[1] == [pytest.approx(90, abs=5), pytest.approx(120, abs=5)]
    assert seconds[2] == [pytest.approx(120, abs=5), None]
    assert seconds[3] == [None, None]
    assert [item["no_estimate"] for item in page["items"]] == [None, None, "not_measured", "job_ahead_not_measured"]


def test_a_waiting_job_shows_its_place_and_in_lists_its_queue_alone(service: Any, people: Any) -> None:
    submit(people["ada"])
    answer = people["ada"].post("/jobs", json=DIGITS_MLP | {"queue": "night", "priority": -1})
    assert (answer.json()["queue"], answer.json()["priority"]) == ({"name": "night"}, -1)
    job = answer.json()["id"]
    line(service)
    shown = service.job(job)
    assert shown["queue"] == {
        "name": "night",
        "position": 2,
        "reason": "no_worker_for_queue",
        "message": "No worker that takes jobs serves its queue. No worker that takes jobs now can run it.",
        "starts_at": None,
        "finishes_at": None,
        "no_estimate": "no_worker",
    }
    assert (shown["priority"], shown["spec"]["priority"]) == (-1, -1)
    (listed,) = service.http.get("/jobs", params={"queue": "night"}).json()["items"]
    assert (listed["queue"], listed["priority"]) == ({"name": "night"}, -1)
    (part,) = service.http.get("/jobs", params={"queue": "night", "fields": "queue,priority"}).json()["items"]
    assert part == {"queue": {"name": "night"}, "priority": -1}
    assert people["ada"].post(f"/jobs/{job}/cancel").json()["queue"] == {"name": "night"}
    assert service.job(job)["queue"] == {"name": "night"} | NOTHING


def test_a_job_that_came_since_has_no_position_yet_and_says_so(service: Any, people: Any) -> None:
    line(service)
    queue = service.job(submit(people["ada"]))["queue"]
    assert (queue["position"], queue["no_estimate"]) in {(None, "not_worked_out"), (1, "no_worker")}
    line(service)


def test_a_running_job_shows_when_it_began_and_when_it_should_end(service: Any, people: Any) -> None:
    measured, unmeasured, overdue = (submit(people["ada"]) for _ in range(3))
    let_run(service, measured, "lab-1", seconds=500, ago=100)
    let_run(service, unmeasured, "lab-1", ago=100)
    let_run(service, overdue, "lab-1", seconds=50, ago=100)
    queue = service.job(measured)["queue"]
    starts, ends = (datetime.fromisoformat(queue[at]) for at in ("starts_at", "finishes_at"))
    began = service.rows("SELECT started_at FROM attempts WHERE job_id = %s", measured)[0]["started_at"]
    assert (starts, ends - starts) == (began, timedelta(seconds=500))
    assert {name: queue[name] for name in ("position", "reason", "message", "no_estimate")} == dict.fromkeys(
        ["position", "reason", "message", "no_estimate"]
    )
    for job, why in {unmeasured: "not_measured", overdue: "overdue"}.items():
        queue = service.job(job)["queue"]
        assert (queue["starts_at"] is None, queue["finishes_at"], queue["no_estimate"]) == (False, None, why)


def test_a_line_of_thousands_of_years_is_shown(service: Any, people: Any) -> None:
    runs, waits = (submit(people["ada"]) for _ in range(2))
    add_worker(service, "lab-1")
    let_run(service, runs, "lab-1", seconds=1e12)
    service.rows("UPDATE jobs SET estimated_seconds = 1e12 WHERE id = %s", waits)
    (place,) = line(service)["items"]
    assert place["job_id"] == waits
    for shown in (place["starts_at"], place["finishes_at"], service.job(runs)["queue"]["finishes_at"]):
        assert datetime.fromisoformat(shown).year > 2300


def test_requests_that_come_together_are_answered_from_one_line(service: Any, people: Any) -> None:
    submit(people["ada"])
    line(service)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: service.http.get("/queue").json(), range(64)))
    moments = sorted({datetime.fromisoformat(answer["as_of"]) for answer in answers})
    assert all(answer["totals"]["waiting"] == 1 for answer in answers)
    assert all(later - earlier > timedelta(seconds=2) for earlier, later in pairwise(moments))


def test_behind_the_first_thousand_a_job_has_its_place_and_no_estimate(service: Any, people: Any) -> None:
    submit(people["ada"])
    columns = (
        "user_id, queue, priority, device, gpus, exclusive, likeness, unmet, status, spec, epochs, attempt, retries"
    )
    service.rows(
        f"INSERT INTO jobs (id, {columns}) SELECT gen_random_uuid(), {columns} FROM jobs, generate_series(1, 1099)"
    )
    page = line(service, after=998, limit=100)
    assert page["totals"]["waiting"] == 1_100
    assert [item["position"] for item in page["items"]] == list(range(999, 1_099))
    assert {item["no_estimate"] for item in page["items"][2:]} == {"too_far_back"}
    assert {item["no_estimate"] for item in page["items"][:2]} == {"no_worker"}
    rest = line(service, after=page["next"])
    assert ([item["position"] for item in rest["items"]], rest["next"]) == ([1_099, 1_100], None)
    last = rest["items"][-1]["job_id"]
    queue = service.job(last)["queue"]
    assert (queue["position"], queue["no_estimate"], queue["reason"]) == (1_100, "too_far_back", "no_worker_for_queue")
    assert line(service, after=1_000, user="bob", limit=1)["items"] == []


def test_who_sees_their_own_jobs_alone_sees_their_places_and_no_other_name(service: Any, people: Any) -> None:
    submit(people["bob"])
    mine = submit(people["ada"])
    service.rows("INSERT INTO shares (user_id, cpu_seconds) SELECT id, 5000 FROM users WHERE name = 'ada'")
    token = people["ada"].headers["Authorization"].removeprefix("Bearer ")
    with service.another_api(jobs_visible="own") as api, api.client(token) as ada:
        page = line(service, ada)
        assert places(page) == [(2, mine)]
        assert page["items"][0]["ahead_by_share"] == []
        assert page["totals"]["waiting"] == 2
        assert "bob" not in json.dumps(page)
        assert line(service, ada, user="bob")["items"] == []


@pytest.mark.parametrize(
    ("query", "loc"),
    [("limit=0", "limit"), ("limit=101", "limit"), ("after=-1", "after"), ("after=x", "after"), ("queue=A", "queue"),
     ("user=", "user"), ("after=99999999999", "after"), ("bogus=1", "bogus"), ("queue=a&queue=b", "queue")],
)  # fmt: skip
def test_a_bad_question_about_the_line_is_refused_at_its_parameter(service: Any, query: str, loc: str) -> None:
    answer = service.http.get(f"/queue?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert [error["loc"] for error in answer.json()["errors"]] == [loc]


def test_queues_are_listed_by_name_with_what_is_in_them_and_who_serves_them(service: Any, people: Any) -> None:
    add_worker(service, "lab-1", queues=["default", "night"])
    add_worker(service, "lab-2", queues=["default"])
    service.rows("UPDATE workers SET draining_since = clock_timestamp() WHERE name = 'lab-2'")
    let_run(service, submit(people["ada"]), "lab-1")
    submit(people["ada"], queue="archive")
    service.http.post("/queues/closed/pause")
    shown = {
        queue["name"]: (queue["waiting"], queue["running"], queue["paused_by"], queue["workers"])
        for queue in service.http.get("/queues").json()["items"]
    }
    assert list(shown) == sorted(shown)
    assert shown == {
        "archive": (1, 0, None, []),
        "closed": (0, 0, "admin", []),
        "default": (0, 1, None, ["lab-1"]),
        "night": (0, 0, None, ["lab-1"]),
    }
    page = people["ada"].get("/queues", params={"limit": 3}).json()
    rest = people["ada"].get("/queues", params={"after": page["next"]}).json()
    assert [queue["name"] for queue in rest["items"]] == ["night"]


def test_a_queue_is_paused_and_resumed_once_whatever_is_asked(service: Any, people: Any) -> None:
    job = submit(people["ada"], queue="thesis")
    answers = [service.http.post("/queues/thesis/pause") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() == answers[1].json()
    assert (answers[0].json()["waiting"], answers[0].json()["paused_by"]) == (1, "admin")
    line(service)
    assert service.job(job)["queue"]["reason"] == "queue_paused"
    for _ in range(2):
        answer = service.http.post("/queues/thesis/resume")
        assert (answer.status_code, answer.json()["paused_at"]) == (200, None)
    line(service)
    assert service.job(job)["queue"]["reason"] == "no_worker_for_queue"
    assert service.rows("SELECT name, paused_at, paused_by FROM queues") == [
        {"name": "thesis", "paused_at": None, "paused_by": None}
    ]
    audit = service.http.get("/audit", params={"subject": "queue:thesis"}).json()["items"]
    assert [entry["action"] for entry in audit] == ["queue.resume", "queue.pause"]


def test_a_queue_may_be_paused_before_its_first_job(service: Any) -> None:
    answer = service.http.post("/queues/not-yet/pause").json()
    assert (answer["waiting"], answer["paused_at"] is None, answer["workers"]) == (0, False, [])
    job = submit(service.http, queue="not-yet")
    assert reasons(service) == {job: "queue_paused"}


@pytest.mark.parametrize("name", ["Default", "a b", "-a", "x" * 65, "%00", "%F0%9F%92%A9"])
def test_what_cannot_be_a_queues_name_is_not_found(service: Any, name: str) -> None:
    answer = service.http.post(f"/queues/{name}/pause")
    assert (answer.status_code, answer.json()["code"]) == (404, "queue_not_found")
    assert service.rows("SELECT * FROM queues") == []


def test_a_member_pauses_nothing(service: Any, people: Any) -> None:
    for action in ("pause", "resume"):
        answer = people["ada"].post(f"/queues/default/{action}")
        assert (answer.status_code, answer.json()["code"]) == (403, "admin_only")
    assert service.rows("SELECT * FROM queues") == []


def test_a_worker_takes_nothing_from_a_paused_queue_until_it_is_resumed(start_service: Any) -> None:
    service = start_service()
    service.http.post("/queues/default/pause")
    short = {"training": {"epochs": 1}}
    held = submit(service.http, **short)
    free = service.http.patch(f"/jobs/{held}", json={"tags": ["held"]}).json()
    assert service.job(held)["status"] == free["status"] == "queued"
    assert [row["n"] for row in service.rows("SELECT count(*) AS n FROM attempts")] == [0]
    service.http.post("/queues/default/resume")
    assert service.wait_for_end(held)["status"] == "succeeded"
