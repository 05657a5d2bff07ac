"""What Prometheus reads of a running service, and what its processes log: complete, counted once, also in an outage."""

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.engine import make_url

from harness.ports import free_port
from local.children import StackError

EPOCHS = 3
SPEC = {"dataset": {"name": "digits"}, "network": {"name": "mlp", "hidden": [8]}, "training": {"epochs": EPOCHS}}
WAITING = SPEC | {"queue": "waiting"}  # which no worker serves

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Scraped:
    """Every sample of one answer."""

    def __init__(self, text: str) -> None:
        self.samples: Samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        """Return a sample; 0 where there is none yet, as a query takes it."""
        return self.samples.get((name, frozenset(labels.items())), 0.0)

    def names(self) -> set[str]:
        return {name for name, _ in self.samples}


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def service(start_service: Any, port: int) -> Any:
    service = start_service(slots=2, metrics_port=port, worker_name="lab-1")
    scrape(service)  # it counts from now on
    return service


@pytest.fixture(scope="module")
def finished(service: Any) -> str:
    """A job that has succeeded."""
    job = service.submit(SPEC)
    assert service.wait_for_end(job)["status"] == "succeeded"
    return str(job)


def scrape(service: Any) -> Scraped:
    answer = service.anonymous().get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return Scraped(answer.text)


def scrape_until(service: Any, reached: Callable[[Scraped], bool], seconds: float = 30) -> Scraped:
    """Scrape until that is so; an answer may be some seconds old."""
    deadline = time.monotonic() + seconds
    while not reached(found := scrape(service)):
        assert time.monotonic() < deadline, found.samples
        time.sleep(0.2)
    return found


def has_looked_again(service: Any) -> Scraped:
    """Return an answer that was made after this call."""
    asked = {"route": "/healthz", "method": "GET", "status": "200"}
    before = scrape(service).value("trainyard_http_requests_total", **asked)
    service.http.get("/healthz")
    return scrape_until(service, lambda now: now.value("trainyard_http_requests_total", **asked) > before)


def test_a_job_is_counted_at_each_of_its_steps(service: Any, finished: str) -> None:
    ended = {"status": "succeeded", "reason": ""}
    now = scrape_until(service, lambda now: now.value("trainyard_jobs_finished_total", **ended) == 1)
    assert now.value("trainyard_jobs_submitted_total") == 1
    assert now.value("trainyard_job_wait_seconds_count") == 1
    assert now.value("trainyard_claim_seconds_count") == 1
    assert now.value("trainyard_epoch_seconds_count") == EPOCHS
    (row,) = service.rows("SELECT sum(seconds) AS seconds FROM epochs WHERE job_id = %s", finished)
    assert now.value("trainyard_epoch_seconds_sum") == pytest.approx(row["seconds"])
    (row,) = service.rows(
        "SELECT extract(epoch FROM started_at - queued_at)::float8 AS waited FROM jobs JOIN attempts ON job_id = id"
        " WHERE id = %s",
        finished,
    )
    assert now.value("trainyard_job_wait_seconds_sum") == pytest.approx(row["waited"], abs=1.0)
    assert now.value("trainyard_lease_losses_total") == 0


def test_nothing_is_counted_again_by_who_asks_again(service: Any, finished: str) -> None:
    def counted(now: Scraped) -> list[float]:
        names = ("trainyard_job_wait_seconds_count", "trainyard_claim_seconds_count", "trainyard_epoch_seconds_count")
        return [now.value(name) for name in names]

    before = counted(has_looked_again(service))
    assert [counted(has_looked_again(service)) for _ in range(2)] == [before, before]


def test_what_is_committed_after_a_later_id_was_counted_is_counted_too(service: Any, finished: str) -> None:
    insert = (
        b"INSERT INTO milestones (job_id, attempt, type, epoch, data) VALUES (%s, 1, 'epoch', %s, '{\"seconds\": 1}')"
    )
    url = make_url(service.stack.database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    before = has_looked_again(service).value("trainyard_epoch_seconds_count")
    with psycopg.connect(url) as late, psycopg.connect(url) as early:
        late.execute(insert, (finished, 1_001))  # the smaller id
        early.execute(insert, (finished, 1_002))
        early.commit()
        assert has_looked_again(service).value("trainyard_epoch_seconds_count") == before + 1
        late.commit()
    assert has_looked_again(service).value("trainyard_epoch_seconds_count") == before + 2


def test_jobs_and_waits_are_shown_by_queue_and_status(service: Any) -> None:
    jobs = [service.submit(WAITING) for _ in range(3)]
    service.submit(WAITING | {"depends_on": jobs[:1]})
    assert service.http.post(f"/jobs/{jobs[2]}/pause").status_code == 202
    labels = {"queue": "waiting", "status": "queued"}
    now = scrape_until(service, lambda now: now.value("trainyard_jobs", queue="waiting", status="paused") == 1)
    assert now.value("trainyard_jobs", **labels) == 3
    first = now.value("trainyard_queue_oldest_wait_seconds", queue="waiting")
    assert first > 0
    assert has_looked_again(service).value("trainyard_queue_oldest_wait_seconds", queue="waiting") > first

    assert service.http.post("/queues/waiting/pause").status_code == 200
    paused = has_looked_again(service)
    assert ("trainyard_queue_oldest_wait_seconds", frozenset({("queue", "waiting")})) not in paused.samples
    assert paused.value("trainyard_jobs", **labels) == 3
    for job in jobs:
        service.http.post(f"/jobs/{job}/cancel")
    gone = has_looked_again(service)
    assert gone.value("trainyard_jobs", **labels) == 0
    ended = {"status": "cancelled", "reason": "cancelled_by_user"}
    assert gone.value("trainyard_jobs_finished_total", **ended) == 3
    ended = {"status": "failed", "reason": "dependency_failed"}
    assert gone.value("trainyard_jobs_finished_total", **ended) == 1


def test_workers_and_their_slots_are_shown_by_state(service: Any) -> None:
    now = has_looked_again(service)
    assert [now.value("trainyard_workers", state=state) for state in ("online", "draining", "offline")] == [1, 0, 0]
    assert now.value("trainyard_slots", state="online") == 2


def test_a_worker_that_fell_silent_is_told_of_for_a_day_and_one_that_was_stopped_is_not(service: Any) -> None:
    as_ours = "queues, 1, 1, processor, 1, gpus, load, 30"
    rows = (
        "INSERT INTO workers (id, name, instance, host, version, queues, slots, cores, processor, memory_bytes, gpus,"
        " load, lease_seconds, heartbeat_at, stopped_at) SELECT gen_random_uuid(), %s, %s, host, version, "
        f"{as_ours}, now() - %s::interval, %s FROM workers WHERE name = 'lab-1'"
    )
    for name, silent, stopped in (
        ("killed", "1 hour", None),
        ("stopped", "1 hour", "2026-01-01"),
        ("gone for good", "25 hours", None),
        ("well", "1 second", None),
    ):
        service.rows(rows, name, name, silent, stopped)
    try:
        now = has_looked_again(service)
        assert now.value("trainyard_workers_lost") == 1
        assert now.value("trainyard_workers", state="offline") == 3
    finally:
        service.rows("DELETE FROM workers WHERE name <> 'lab-1'")


def test_answers_are_counted_by_route_and_a_stranger_makes_no_series(service: Any) -> None:
    def counted(now: Scraped, route: str, status: str, method: str = "GET") -> float:
        return now.value("trainyard_http_requests_total", route=route, method=method, status=status)

    before = has_looked_again(service)
    for path in ("/nothing", "/nothing/else", "/jobs/%00"):
        service.http.get(path)
    service.http.request("PROPFIND", "/me")
    service.http.get("/me")
    service.anonymous().get("/me")
    now = has_looked_again(service)
    assert counted(now, "none", "404") - counted(before, "none", "404") == 2
    assert counted(now, "/jobs/{job_id}", "404") - counted(before, "/jobs/{job_id}", "404") == 1
    assert counted(now, "/me", "200") - counted(before, "/me", "200") == 1
    assert counted(now, "/me", "401") - counted(before, "/me", "401") == 1
    assert counted(now, "/me", "405", method="other") == 1
    assert not any("nothing" in value for _, labels in now.samples for _, value in labels)
    timed = {"route": "/me", "method": "GET"}
    name = "trainyard_http_request_seconds_count"
    assert now.value(name, **timed) - before.value(name, **timed) == 2


def test_no_job_and_no_person_is_named(service: Any, finished: str) -> None:
    text = service.anonymous().get("/metrics").text
    assert finished not in text
    assert "admin" not in text


def test_many_who_ask_at_once_are_all_answered(service: Any) -> None:
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: service.http.get("/metrics").status_code, range(100)))
    assert set(answers) == {200}


def test_a_worker_tells_of_its_own_claims_epochs_and_disks(service: Any, finished: str, port: int) -> None:
    answer = httpx2.get(f"http://127.0.0.1:{port}/metrics", trust_env=False)
    now = Scraped(answer.text)
    assert now.value("trainyard_worker_claim_seconds_count") == 1
    assert now.value("trainyard_worker_epoch_seconds_count") == EPOCHS
    assert now.value("trainyard_worker_attempts_running") == 0
    assert now.value("trainyard_worker_slots") == 2
    assert now.value("trainyard_worker_database_away_seconds") == 0
    for folder in ("artifacts", "datasets"):
        free = now.value("trainyard_worker_disk_free_bytes", folder=folder)
        assert 0 < free <= now.value("trainyard_worker_disk_bytes", folder=folder)
    assert now.value("process_open_fds") > 0


def lines_of(service: Any, child: str) -> list[dict[str, str]]:
    """Return the fields of every line that a process has logged through the one formatter."""
    field = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S*)')
    return [
        {name: value.strip('"') for name, value in field.findall(line)}
        for line in service.log(child).splitlines()
        if line.startswith("timestamp=")
    ]


def test_a_workers_events_bear_the_worker_the_job_and_the_attempt(service: Any, finished: str) -> None:
    lines = lines_of(service, "worker-1")
    assert {line["worker"] for line in lines} == {"lab-1"}, "those of libraries too"
    of_job = [line for line in lines if line.get("job") == finished]
    assert {"attempt_started", "epoch", "job_succeeded"} <= {line["event"] for line in of_job}
    assert {line["attempt"] for line in of_job} == {"1"}


def test_the_apis_lines_bear_the_request_the_caller_and_the_job(service: Any, finished: str) -> None:
    service.http.get(f"/jobs/{finished}/events", headers={"X-Request-ID": "a-request-to-find"})
    (line,) = [line for line in lines_of(service, "api") if line.get("request_id") == "a-request-to-find"]
    assert (line["user"], line["job"]) == ("admin", finished)
    assert line["token"] == service.stack.admin_token.split("_")[1]
    service.anonymous().get("/healthz", headers={"X-Request-ID": "nobodys-request"})
    (line,) = [line for line in lines_of(service, "api") if line.get("request_id") == "nobodys-request"]
    assert "user" not in line, "what one request binds, the next does not bear"


def test_a_worker_whose_port_is_taken_says_so_and_ends(service: Any, port: int) -> None:
    with pytest.raises(StackError, match=f"TRAINYARD_METRICS_PORT: {port} cannot be had"):
        service.stack.run_module("worker")


def test_every_line_of_a_log_is_one_event(service: Any, finished: str) -> None:
    for child in ("worker-1", "scheduler", "api"):
        lines = service.log(child).splitlines()
        assert lines
        assert [line for line in lines if not line.startswith("timestamp=")] == [], child


def test_the_scheduler_says_nothing_of_visits_that_find_nothing(service: Any, finished: str) -> None:
    assert "Sending due task" not in service.log("scheduler")


@pytest.mark.usefixtures("own_servers")
def test_a_database_that_does_not_move_is_told_before_prometheus_gives_up(service: Any) -> None:
    has_looked_again(service)
    prometheus = httpx2.Client(base_url=service.stack.base_url, timeout=10, trust_env=False)
    with service.suspended("postgres"), prometheus:
        time.sleep(3)  # what it says is fresh for so long
        for _ in range(3):
            away = Scraped(prometheus.get("/metrics").text)
            assert away.value("trainyard_database_up") == 0
            assert "trainyard_database_up" in away.names()
            assert "trainyard_jobs_finished_total" in away.names(), "what was counted stays"
    scrape_until(service, lambda now: now.value("trainyard_database_up") == 1, 60)
    told = [line["detail"] for line in lines_of(service, "api") if line["event"] == "database_away"]
    assert told
    assert "" not in told


@pytest.mark.usefixtures("own_servers")
def test_an_outage_of_the_database_is_told_by_the_api_and_the_worker(service: Any, port: int) -> None:
    service.stack.kill_child("postgres")
    try:
        away = scrape_until(service, lambda now: now.value("trainyard_database_up") == 0)
        assert "trainyard_database_up" in away.names()
        assert "trainyard_jobs" not in away.names(), "nothing old is shown in its place"
        assert "trainyard_workers" not in away.names()
        assert away.value("process_open_fds") > 0
        deadline = time.monotonic() + 60
        while (
            Scraped(httpx2.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text).value(
                "trainyard_worker_database_away_seconds"
            )
            == 0
        ):
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        service.stack.start_child("postgres")
    back = scrape_until(service, lambda now: now.value("trainyard_database_up") == 1)
    assert "trainyard_workers" in back.names()
