"""Workers as the lab sees them: they appear, are heard of, go away and come back, and are drained."""

import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from local.children import Child
from worker.host import this_host
from worker.registration import Registration
from worker.settings import WorkerSettings

LEASE_SECONDS = 3
SHORT = {"dataset": {"name": "digits"}, "network": {"name": "mlp", "hidden": [8]}, "training": {"epochs": 2}}
LONG = SHORT | {"name": "long one", "training": {"epochs": 100_000}}


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    """One worker with one slot whose lease runs out soon; what a test kills it starts again."""
    return start_service(lease_seconds=LEASE_SECONDS, beat_seconds=0.3, poll_seconds=0.3, sweep_seconds=0.3)


@pytest.fixture(scope="module")
def worker(service: Any) -> Any:
    """The worker's id."""
    (item,) = service.http.get("/workers").json()["items"]
    return item["id"]


@pytest.fixture
def long_job(service: Any) -> Iterator[str]:
    """A job in the middle of its training, cancelled afterwards."""
    job_id = service.submit(LONG)
    trains(service, job_id)
    yield job_id
    service.http.post(f"/jobs/{job_id}/cancel")
    service.wait_for_end(job_id)


def trains(service: Any, job_id: str) -> None:
    """Wait for the job's first epoch; a worker that was just started imports torch first."""
    service.wait_for(job_id, lambda job: job["progress"]["epoch"] >= 1, seconds=180)


def show(service: Any, worker: str) -> dict[str, Any]:
    view: dict[str, Any] = service.http.get(f"/workers/{worker}").json()
    return view


def wait_for(
    service: Any, worker: str, reached: Callable[[dict[str, Any]], bool], seconds: float = 60
) -> dict[str, Any]:
    """Poll the worker until `reached`."""
    deadline = time.monotonic() + seconds
    while not reached(view := show(service, worker)):
        assert time.monotonic() < deadline, view
        time.sleep(0.02)
    return view


def wait_for_beat(service: Any, worker: str) -> dict[str, Any]:
    """Wait for the next heartbeat."""
    last = show(service, worker)["heartbeat_at"]
    return wait_for(service, worker, lambda view: view["heartbeat_at"] > last)


def lines(service: Any, *parts: str) -> int:
    """Return how many lines of the worker's log hold all these parts."""
    return sum(all(part in line for part in parts) for line in service.log("worker-1").splitlines())


def post(service: Any, worker: str, action: str, status: int) -> dict[str, Any]:
    answer = service.http.post(f"/workers/{worker}/{action}")
    assert answer.status_code == status, answer.text
    view: dict[str, Any] = answer.json()
    return view


def audited(service: Any, worker: str) -> list[str]:
    items = service.http.get("/audit", params={"subject": f"worker:{worker}"}).json()["items"]
    return [item["action"] for item in items]


def test_a_worker_that_starts_appears_with_what_it_has(service: Any) -> None:
    (view,) = service.http.get("/workers", params={"state": "online", "queue": "default"}).json()["items"]
    host = this_host([], git_commit=None)
    assert (view["state"], view["queues"], view["slots"], view["gpus"]) == ("online", ["default"], 1, [])
    assert (view["host"], view["processor"], view["cores"]) == (host.name, host.processor, host.cores)
    assert view["version"].partition("+")[0] == host.version
    assert view["memory_bytes"] == host.memory_bytes
    assert view["stopped_at"] is view["draining_since"] is None


def test_its_heartbeat_moves_on_and_brings_how_busy_its_host_is(service: Any, worker: str) -> None:
    first = show(service, worker)
    later = wait_for_beat(service, worker)
    assert later["started_at"] == first["started_at"]
    assert 0 <= later["cpu_percent"] <= 100
    assert 0 < later["memory_used_bytes"] < later["memory_bytes"]


def test_its_running_jobs_are_shown_to_whoever_may_read_them(service: Any, worker: str, long_job: str) -> None:
    view = show(service, worker)
    (job,) = view["jobs"]
    assert view["running"] == 1
    assert (job["id"], job["name"], job["user"], job["status"]) == (long_job, "long one", "admin", "running")
    assert (job["attempt"], job["gpus"], job["epochs"]) == (1, [], 100_000)
    assert job["epoch"] >= 1
    token = service.new_user("curious")
    assert [job["id"] for job in service.client(token).get(f"/workers/{worker}").json()["jobs"]] == [long_job]
    with service.another_api(jobs_visible="own") as api, api.client(token) as client:
        hidden = client.get(f"/workers/{worker}").json()
        assert (hidden["running"], hidden["jobs"]) == (1, [])


def test_filters_narrow_the_list_and_bad_ones_are_refused(service: Any, worker: str) -> None:
    for unmatched in ({"state": "offline"}, {"state": "draining"}, {"queue": "other"}, {"after": "~"}):
        assert service.http.get("/workers", params=unmatched).json() == {"items": [], "next": None}
    bad: list[dict[str, Any]] = [{"state": "asleep"}, {"queue": "A b"}, {"after": ""}, {"limit": 0}]
    for params in bad:
        answer = service.http.get("/workers", params=params)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_a_killed_worker_is_offline_after_its_lease_and_comes_back_to_its_row(service: Any, worker: str) -> None:
    before = show(service, worker)
    service.stack.kill_child("worker-1")
    assert show(service, worker)["state"] == "online", "nobody knows yet"
    killed = wait_for(service, worker, lambda view: view["state"] == "offline")
    assert killed["stopped_at"] is None
    assert [item["id"] for item in service.http.get("/workers?state=offline").json()["items"]] == [worker]
    service.stack.start_child("worker-1")
    back = wait_for(service, worker, lambda view: view["state"] == "online")
    assert back["started_at"] > before["started_at"]
    assert service.rows("SELECT count(*) AS n FROM workers") == [{"n": 1}]


def test_a_worker_killed_and_started_again_at_once_has_its_name(service: Any, worker: str) -> None:
    before = show(service, worker)
    service.stack.kill_child("worker-1")
    service.stack.start_child("worker-1")
    wait_for(service, worker, lambda view: view["started_at"] > before["started_at"])
    assert service.wait_for_end(service.submit(SHORT), seconds=180)["status"] == "succeeded"


def test_a_worker_that_is_told_to_stop_is_offline_at_once(service: Any, worker: str) -> None:
    service.stack.kill_child("worker-1", signal.SIGTERM)
    view = wait_for(service, worker, lambda view: view["stopped_at"] is not None)
    assert view["state"] == "offline"
    (silent,) = service.rows("SELECT stopped_at - heartbeat_at AS gap FROM workers")
    assert silent["gap"].total_seconds() < LEASE_SECONDS, "not by its silence"
    service.stack._children["worker-1"].wait()
    service.stack.start_child("worker-1")
    assert wait_for(service, worker, lambda view: view["state"] == "online")["stopped_at"] is None


def test_a_draining_worker_finishes_its_job_and_takes_no_other_until_it_is_resumed(service: Any, worker: str) -> None:
    running = service.submit(SHORT | {"training": {"epochs": 1_000}})
    trains(service, running)
    view = post(service, worker, "drain", 202)
    assert (view["state"], [job["id"] for job in view["jobs"]]) == ("draining", [running])
    waiting = service.submit(SHORT)
    assert service.wait_for_end(running)["status"] == "succeeded"
    for _ in range(4):  # several looks for work long
        wait_for_beat(service, worker)
    assert service.job(waiting)["status"] == "queued"
    assert show(service, worker)["running"] == 0
    assert post(service, worker, "resume", 200)["state"] == "online"
    assert service.wait_for_end(waiting, seconds=180)["status"] == "succeeded"


def test_a_drained_worker_is_still_drained_after_a_restart(service: Any, worker: str) -> None:
    since = post(service, worker, "drain", 202)["draining_since"]
    service.stack.kill_child("worker-1")
    before = show(service, worker)["started_at"]
    service.stack.start_child("worker-1")
    view = wait_for(service, worker, lambda view: view["started_at"] > before)
    assert (view["state"], view["draining_since"]) == ("draining", since)
    waiting = service.submit(SHORT)
    wait_for_beat(service, worker)
    assert service.job(waiting)["attempt"] == 0
    post(service, worker, "resume", 200)
    assert service.wait_for_end(waiting, seconds=180)["status"] == "succeeded"


def test_draining_twice_changes_and_records_nothing_more(service: Any, worker: str) -> None:
    recorded = audited(service, worker)
    first, second = (post(service, worker, "drain", 202) for _ in range(2))
    assert first["draining_since"] == second["draining_since"] is not None
    assert audited(service, worker) == ["worker.drain", *recorded]
    for _ in range(2):
        assert post(service, worker, "resume", 200)["draining_since"] is None
    assert audited(service, worker) == ["worker.resume", "worker.drain", *recorded]


def test_members_see_workers_and_drain_none(service: Any, worker: str) -> None:
    member = service.client(service.new_user("member"))
    assert member.get(f"/workers/{worker}").status_code == 200
    recorded = audited(service, worker)
    for action in ("drain", "resume"):
        answer = member.post(f"/workers/{worker}/{action}")
        assert (answer.status_code, answer.json()["code"]) == (403, "admin_only")
    assert service.rows("SELECT draining_since FROM workers") == [{"draining_since": None}]
    assert audited(service, worker) == recorded


@pytest.mark.usefixtures("own_servers")
def test_a_worker_outlives_a_database_that_is_away(service: Any, worker: str, long_job: str) -> None:
    before = show(service, worker)
    pid = service.stack.pid("worker-1")
    reached = service.job(long_job)["progress"]["epoch"]
    missed = lines(service, "database_away", "worker.outage")
    service.stack.kill_child("postgres")
    while lines(service, "database_away", "worker.outage") == missed:
        service.stack._children["worker-1"].check()
        time.sleep(0.05)
    service.stack.start_child("postgres")
    deadline = time.monotonic() + 20
    while service.http.get(f"/workers/{worker}").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    view = wait_for_beat(service, worker)
    assert (view["state"], view["started_at"]) == ("online", before["started_at"])
    assert service.stack.pid("worker-1") == pid
    service.wait_for_epoch(long_job, reached + 1)


def test_a_second_worker_of_the_name_does_not_start(service: Any, worker: str) -> None:
    before = show(service, worker)["started_at"]
    log = service.data_dir / "logs" / "second.log"
    second = Child(service.stack._python("worker-1", "worker"), log)
    try:
        second.wait()
        name = show(service, worker)["name"]
        assert f"another worker named {name} runs on" in log.read_text().splitlines()[-1]
        assert second._process.returncode == 1
    finally:
        second.stop()
    assert show(service, worker)["started_at"] == before


@pytest.fixture
def elsewhere(service: Any) -> Iterator[Callable[[str], Registration]]:
    """How a worker named `shared` is registered from some machine, without slots; all of them are stopped."""
    settings = WorkerSettings(
        DATABASE_URL=service.stack.database_url,
        environment="development",
        worker_name="shared",
        lease_seconds=3,
        beat_seconds=0.1,
    )
    made: list[Registration] = []

    def registration(machine: str) -> Registration:
        made.append(Registration(service.sessions, settings, this_host([], None)))
        made[-1]._instance = f"{machine} 1 1"
        return made[-1]

    yield registration
    for one in made:
        one._stopping.set()
        one._due.set()
        if one._thread.is_alive():
            one._thread.join()


def fall_silent(registration: Registration) -> None:
    """Let a worker end without a word."""
    registration._stopping.set()
    registration._due.set()
    registration._thread.join()


def instance(service: Any) -> str:
    (row,) = service.rows("SELECT instance FROM workers WHERE name = 'shared'")
    return str(row["instance"])


def test_the_name_of_a_live_worker_on_another_host_is_not_taken(
    service: Any, elsewhere: Callable[[str], Registration]
) -> None:
    first, second = elsewhere("moon"), elsewhere("mars")
    first.start()
    assert not first.draining
    with pytest.raises(SystemExit, match="another worker named shared runs on"):
        second.start()
    assert second.draining, "who has no row takes no jobs"
    assert instance(service) == "moon 1 1"
    first.stop()
    second._take_or_refuse()
    assert instance(service) == "mars 1 1", "at once after a clean stop"


def test_the_name_of_a_silent_worker_on_another_host_is_taken_after_its_lease_and_the_old_one_keeps_off(
    service: Any, elsewhere: Callable[[str], Registration]
) -> None:
    first, second = elsewhere("venus"), elsewhere("pluto")
    first.start()
    fall_silent(first)
    second.start()
    assert instance(service) == "pluto 1 1"
    assert not second.draining
    first._beat()  # it was only suspended
    assert first.draining
    assert instance(service) == "pluto 1 1"
    second.stop()
    first._beat()
    assert not first.draining
    assert instance(service) == "venus 1 1"
