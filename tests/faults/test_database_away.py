"""Postgres away, full, locked or silent while a job trains: training is not stalled, and nothing of it is lost."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from sqlalchemy.engine import make_url

from harness.figures import Figures, figures_of
from harness.invariants import require_invariants
from harness.proxy import Proxy

pytestmark = pytest.mark.usefixtures("own_servers")

SPEC: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "network": {"name": "mlp", "hidden": [32], "dropout": 0.2},
    "training": {"epochs": 300, "seed": 5},
}
# An epoch of some tenths of a second: an outage leaves hundreds of checkpoints, not thousands.
ENDLESS = SPEC | {"training": {"epochs": 100_000, "batch_size": 4, "seed": 5}}
LEASE_SECONDS = 4
PATIENCE_SECONDS = 240  # on a machine that is busy with other things
OUTAGE_SECONDS = 3 * LEASE_SECONDS


def warm(service: Any) -> Any:
    """Return the service when its worker has imported torch, before which no job can start."""
    service.wait_for_end(service.submit(SPEC | {"training": {"epochs": 1}}), PATIENCE_SECONDS)
    return service


@pytest.fixture(scope="module")
def stack(start_service: Any) -> Any:
    """One stack whose leases are much shorter than any outage."""
    return warm(start_service(lease_seconds=LEASE_SECONDS, beat_seconds=0.25, poll_seconds=0.5, sweep_seconds=0.5))


@pytest.fixture(scope="module")
def undisturbed(stack: Any) -> Figures:
    """The figures of the job when nothing happens."""
    job_id = stack.submit(SPEC)
    stack.wait_for_end(job_id, PATIENCE_SECONDS)
    return figures_of(stack, job_id)


def under_way(service: Any, spec: dict[str, Any]) -> str:
    """Submit a job and return when it trains."""
    job_id: str = service.submit(spec)
    service.wait_for(job_id, lambda job: job["progress"]["epoch"] >= 3, PATIENCE_SECONDS)
    return job_id


def newest_epoch(service: Any, job_id: str) -> int:
    """Return the epoch of the newest checkpoint on disk: what the runner has come to, whoever knows of it."""
    files: Iterator[Path] = (service.stack.artifacts / job_id).glob("checkpoint-*.pt")
    return max(int(file.stem.split("-")[2]) for file in files)


def require_one_attempt(service: Any, job_id: str, outcome: str) -> None:
    """Check that nobody took the job for lost, and that its epochs were recorded in their order."""
    attempts = service.rows("SELECT number, outcome FROM attempts WHERE job_id = %s", job_id)
    assert attempts == [{"number": 1, "outcome": outcome}]
    rows = service.rows("SELECT recorded_at FROM epochs WHERE job_id = %s ORDER BY epoch", job_id)
    assert all(before["recorded_at"] < after["recorded_at"] for before, after in pairwise(rows))
    require_invariants(service, [job_id])


def cancel(service: Any, job_id: str) -> None:
    service.http.post(f"/jobs/{job_id}/cancel").raise_for_status()
    assert service.wait_for_end(job_id, PATIENCE_SECONDS)["status"] == "cancelled"


def train_through(service: Any, job_id: str, fault: Any, seconds: float) -> None:
    """Let the fault last so long, and check that the runner trained on and that every epoch was recorded afterwards."""
    runner = psutil.Process(service.runner_pid())
    before = newest_epoch(service, job_id)
    with fault:
        time.sleep(seconds / 2)
        half = newest_epoch(service, job_id)
        time.sleep(seconds / 2)
        end = newest_epoch(service, job_id)
        assert before < half < end, "training was stalled"
        assert runner.is_running()
    service.wait_for(job_id, lambda job: job["progress"]["epoch"] > end, PATIENCE_SECONDS)
    assert runner.is_running(), "the same runner goes on"


@contextmanager
def killed(service: Any) -> Iterator[None]:
    """Let there be no Postgres during the body."""
    service.stack.kill_child("postgres")
    try:
        yield
    finally:
        service.stack.start_child("postgres")


@contextmanager
def suspended(service: Any) -> Iterator[None]:
    """Let every process of Postgres stand still during the body, as on a host that is frozen or a disk that hangs."""
    with service.suspended("postgres"):
        yield


def libpq_url(service: Any) -> str:
    url = make_url(service.stack.database_url).set(drivername="postgresql")
    return url.render_as_string(hide_password=False)


@contextmanager
def locked(service: Any) -> Iterator[None]:
    """Hold the whole table of jobs during the body, as a careless migration would."""
    with psycopg.connect(libpq_url(service)) as connection:
        connection.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
        yield


@contextmanager
def crowded(service: Any) -> Iterator[None]:
    """Hold every connection that Postgres gives during the body; whoever had one has lost it."""
    hoard: list[psycopg.Connection[Any]] = []
    try:
        (most,) = service.rows("SELECT CAST(current_setting('max_connections') AS int) AS n")
        deadline = time.monotonic() + 60
        while len(hoard) < most["n"]:  # who is thrown out may be back faster than we are
            assert time.monotonic() < deadline, f"{len(hoard)} of {most['n']} connections are ours"
            hoard += _all_connections(libpq_url(service))
            for connection in hoard[:1]:
                ours = [one.info.backend_pid for one in hoard]
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE backend_type = 'client backend' AND NOT pid = ANY(%s)",
                    [ours],
                )
        yield
    finally:
        for connection in hoard:
            connection.close()


def _all_connections(url: str) -> list[psycopg.Connection[Any]]:
    connections: list[psycopg.Connection[Any]] = []
    while True:
        try:
            connections.append(psycopg.connect(url, autocommit=True))
        except psycopg.OperationalError:  # there are no more
            return connections


def test_a_minute_without_postgres_stalls_no_training(start_service: Any) -> None:
    service = warm(start_service(lease_seconds=30, beat_seconds=5))
    job_id = under_way(service, ENDLESS)
    train_through(service, job_id, killed(service), seconds=60)
    cancel(service, job_id)
    require_one_attempt(service, job_id, "cancelled")


@pytest.mark.parametrize("fault", [killed, suspended])
def test_an_outage_of_three_leases_costs_neither_an_epoch_nor_the_attempt(fault: Any, stack: Any) -> None:
    job_id = under_way(stack, ENDLESS)
    train_through(stack, job_id, fault(stack), seconds=OUTAGE_SECONDS)
    cancel(stack, job_id)
    require_one_attempt(stack, job_id, "cancelled")


def test_a_job_that_ends_while_postgres_is_away_is_recorded_when_it_is_back(stack: Any, undisturbed: Figures) -> None:
    job_id = under_way(stack, SPEC)
    runner = psutil.Process(stack.runner_pid())
    with killed(stack):
        runner.wait(PATIENCE_SECONDS)
        time.sleep(OUTAGE_SECONDS)  # nobody renews its lease, also after its end
    assert stack.wait_for_end(job_id, PATIENCE_SECONDS)["status"] == "succeeded"
    require_one_attempt(stack, job_id, "succeeded")
    require_invariants(stack, [job_id], undisturbed=undisturbed)


def test_a_lock_on_the_table_of_jobs_for_twenty_seconds_is_waited_for(stack: Any) -> None:
    job_id = under_way(stack, ENDLESS)
    with locked(stack):
        answer = stack.http.post("/jobs", json=SPEC)  # waits for ten of them
        assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
        before = newest_epoch(stack, job_id)
        time.sleep(10)
        reached = newest_epoch(stack, job_id)
        assert before < reached, "training was stalled"
    stack.wait_for(job_id, lambda job: job["progress"]["epoch"] > reached, PATIENCE_SECONDS)
    cancel(stack, job_id)
    require_one_attempt(stack, job_id, "cancelled")
    assert stack.rows("SELECT count(*) AS n FROM jobs WHERE id > %s", job_id) == [{"n": 0}], "it was refused"


def test_the_limit_of_connections_is_an_outage_like_others(stack: Any) -> None:
    job_id = under_way(stack, ENDLESS)
    runner = psutil.Process(stack.runner_pid())
    with crowded(stack):
        answer = stack.http.get(f"/jobs/{job_id}")
        assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
        refused = stack.http.post("/jobs", json=SPEC)
        assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
        time.sleep(OUTAGE_SECONDS)
        reached = newest_epoch(stack, job_id)
    stack.wait_for(job_id, lambda job: job["progress"]["epoch"] >= reached, PATIENCE_SECONDS)
    assert runner.is_running()
    cancel(stack, job_id)
    require_one_attempt(stack, job_id, "cancelled")


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with Proxy() as proxy:
        yield proxy


@pytest.fixture(scope="module")
def beyond_proxy(start_service: Any, proxy: Proxy) -> Any:
    """One stack whose worker reaches Postgres through the proxy; a lease is longer than any test."""
    service = start_service(
        lease_seconds=600, beat_seconds=1, poll_seconds=0.5, overrides_of={"worker-1": {"DATABASE_URL": proxy.url}}
    )
    proxy.forward_to(service.stack.database_url)
    return warm(service)


@pytest.mark.parametrize(("table", "passes"), [("attempts", 0), ("epochs", 5), ("results", 0)])
def test_a_commit_whose_answer_was_lost_is_not_done_twice(
    table: str, passes: int, beyond_proxy: Any, proxy: Proxy, undisturbed: Figures
) -> None:
    dropped = proxy.drop_at_commit(f"INSERT INTO {table} ", passes=passes)
    job_id = beyond_proxy.submit(SPEC)
    dropped.wait(PATIENCE_SECONDS)
    assert beyond_proxy.wait_for_end(job_id, PATIENCE_SECONDS)["status"] == "succeeded"
    require_one_attempt(beyond_proxy, job_id, "succeeded")
    require_invariants(beyond_proxy, [job_id], undisturbed=undisturbed)
    moves = [move["to_status"] for move in beyond_proxy.job(job_id)["transitions"]]
    assert moves == ["queued", "running", "succeeded"]
    kept = beyond_proxy.rows("SELECT count(*) AS n FROM milestones WHERE job_id = %s AND type = 'epoch'", job_id)
    assert kept == [{"n": SPEC["training"]["epochs"]}]


def test_a_piece_of_the_log_whose_commit_was_not_heard_of_stands_there_once(
    beyond_proxy: Any, proxy: Proxy, undisturbed: Figures
) -> None:
    job_id = under_way(beyond_proxy, SPEC)
    dropped = proxy.drop_at_commit("INSERT INTO log_chunks ")
    psutil.Process(beyond_proxy.runner_pid()).kill()  # its successor prints where it goes on
    dropped.wait(PATIENCE_SECONDS)
    assert beyond_proxy.wait_for_end(job_id, PATIENCE_SECONDS)["status"] == "succeeded"
    require_invariants(beyond_proxy, [job_id], undisturbed=undisturbed)
    pieces = beyond_proxy.rows("SELECT text FROM log_chunks WHERE job_id = %s", job_id)
    assert "".join(piece["text"] for piece in pieces).count("Attempt 2 goes on after epoch") == 1


def test_while_postgres_is_frozen_the_api_says_so_and_a_worker_that_is_told_to_stop_is_soon_gone(stack: Any) -> None:
    job_id = under_way(stack, SPEC | {"training": SPEC["training"] | {"batch_size": 8, "epochs": 100}})
    stack.stack.kill_child("scheduler")  # one that stands still beside Postgres would wait for it, too
    with suspended(stack), ThreadPoolExecutor(20) as users:
        answers = [users.submit(stack.http.get, path) for path in ("/jobs", f"/jobs/{job_id}") for _ in range(10)]
        stack.stack.kill_child("worker-1", signal.SIGTERM)
        psutil.Process(stack.stack.pid("worker-1")).wait(30)
        statuses = {answer.result().status_code for answer in answers}  # the client waits for 40 s
    assert statuses <= {200, 503}
    assert stack.wrong_answers == []
    stack.stack.start_child("scheduler")
    stack.stack.start_child("worker-1")
    assert stack.wait_for_end(job_id, PATIENCE_SECONDS)["status"] == "succeeded"
    require_invariants(stack, [job_id])
