"""Every process started while database and broker are down: it says so in a line, tries on, and then works."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx2
import pytest

from harness.invariants import require_invariants
from local.children import wait_until

pytestmark = pytest.mark.usefixtures("own_servers")

SPEC: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "network": {"name": "mlp", "hidden": [16]},
    "training": {"epochs": 2},
}
PROCESSES = ("worker-1", "scheduler", "api")
SERVERS = ("postgres", "valkey")
PATIENCE_SECONDS = 240  # on a machine that is busy with other things
DOWN_SECONDS = 10  # long enough for several tries of each


@pytest.fixture(scope="module")
def without(start_service: Any) -> Iterator[Any]:
    """A stack whose processes were started while its servers were down, and are given time to complain."""
    service = start_service(lease_seconds=5, beat_seconds=0.5, sweep_seconds=0.5)
    for name in (*PROCESSES, *SERVERS):
        service.stack.kill_child(name)
    service.migration = service.start_migrations()
    for name in PROCESSES:
        (service.data_dir / "logs" / f"{name}.log").write_text("")
        service.stack.start_child(name)
    time.sleep(DOWN_SECONDS)
    yield service
    service.migration.kill()
    service.migration.communicate()


def status_of(service: Any, path: str) -> int:
    """Ask the API, and wait for it while it starts."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return int(service.http.get(path).status_code)
        except httpx2.TransportError:
            assert time.monotonic() < deadline, "the API did not start"
            time.sleep(0.1)


def says(service: Any, name: str, event: str) -> bool:
    return f"event={event}" in service.log(name)


def test_processes_live_and_say_in_one_line_what_they_miss(without: Any) -> None:
    assert status_of(without, "/healthz") == 200
    assert status_of(without, "/readyz") == 503
    refused = without.http.post("/jobs", json=SPEC)
    assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
    assert all(without.stack.is_running(name) for name in PROCESSES)
    said = {"worker-1": "database_away", "scheduler": "database_away", "api": "listening_interrupted"}
    for name, event in said.items():
        wait_until(partial(says, without, name, event), watch=lambda: None, what=f"{event} of {name}", seconds=60)
        log = without.log(name)
        assert "Traceback" not in log, f"{name}:\n{log}"
        first = next(line for line in log.splitlines() if f"event={event}" in line)
        assert "No such file or directory" in first or "refused" in first
    line = without.migration.stdout.readline()
    assert line.startswith("migrations: connection is bad"), line
    assert line.endswith("tries again\n"), line
    assert without.migration.poll() is None


def test_they_work_once_the_servers_are_there(without: Any) -> None:
    for name in SERVERS:
        without.stack.start_child(name)
    assert without.migration.wait(PATIENCE_SECONDS) == 0, without.migration.stdout.read()
    without.stack.wait_until_ready()
    without.wait_for_end(without.submit(SPEC), PATIENCE_SECONDS)  # the worker imports torch first
    job_id = without.submit(SPEC)
    assert without.wait_for_end(job_id, PATIENCE_SECONDS)["status"] == "succeeded"
    require_invariants(without, [job_id])
    for name in PROCESSES:
        log = without.log(name)
        assert "Traceback" not in log, f"{name}:\n{log}"
