"""A host cut off from Postgres alone: another one takes over, and what the first did meanwhile counts nowhere."""

import signal
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import psutil
import pytest

from harness.figures import Figures, figures_of
from harness.invariants import require_invariants
from harness.proxy import Proxy
from local.children import wait_until

pytestmark = pytest.mark.usefixtures("own_servers")

SPEC: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "network": {"name": "mlp", "hidden": [32], "dropout": 0.2},
    "training": {"epochs": 40, "batch_size": 4, "seed": 5},
}
ENDLESS = SPEC | {"training": SPEC["training"] | {"epochs": 100_000}}
OUTAGE_SECONDS = 30
PATIENCE_SECONDS = 240  # on a machine that is busy with other things


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with Proxy() as proxy:
        yield proxy


@pytest.fixture(scope="module")
def stack(start_service: Any, proxy: Proxy) -> Any:
    """Two workers, the first of which can be cut off."""
    service = start_service(
        workers=2,
        lease_seconds=4,
        beat_seconds=0.25,
        poll_seconds=0.5,
        sweep_seconds=0.5,
        outage_seconds=OUTAGE_SECONDS,
        overrides_of={"worker-1": {"DATABASE_URL": proxy.url}},
    )
    proxy.forward_to(service.stack.database_url)
    for name in ("worker-1", "worker-2"):

        def has_imported_torch(name: str = name) -> bool:
            return "event=slots_ready" in service.log(name)

        wait_until(has_imported_torch, watch=service.stack.check, what=name, seconds=PATIENCE_SECONDS)
    return service


@pytest.fixture(scope="module")
def undisturbed(stack: Any) -> Figures:
    """The figures of the job when nothing happens."""
    job_id = stack.submit(SPEC)
    stack.wait_for_end(job_id, PATIENCE_SECONDS)
    return figures_of(stack, job_id)


@pytest.fixture
def first_alone(stack: Any) -> Iterator[None]:
    """Let the first worker be the only one, until the second one wakes, which has imported torch then."""
    stack.stack.kill_child("worker-2", signal.SIGSTOP)
    yield
    stack.stack.kill_child("worker-2", signal.SIGCONT)


def under_way(service: Any, spec: dict[str, Any]) -> str:
    """Submit a job and return when it trains."""
    job_id: str = service.submit(spec)
    service.wait_for(job_id, lambda job: job["progress"]["epoch"] >= 2, PATIENCE_SECONDS)
    return job_id


def epoch_on_disk(service: Any, job_id: str, attempt: int) -> int:
    """Return the last epoch that an attempt has saved, whether or not it could tell."""
    files = (service.stack.artifacts / job_id).glob(f"checkpoint-{attempt:04d}-*.pt")
    return max((int(file.stem.split("-")[2]) for file in files), default=0)


def last_start(service: Any, job_id: str) -> datetime:
    """Return when the last attempt began: before it, the worker that was started anew could not claim at once."""
    (row,) = service.rows("SELECT max(started_at) AS at FROM attempts WHERE job_id = %s", job_id)
    at: datetime = row["at"]
    return at


def cancel(service: Any, job_id: str) -> None:
    service.http.post(f"/jobs/{job_id}/cancel").raise_for_status()
    assert service.wait_for_end(job_id, PATIENCE_SECONDS)["status"] == "cancelled"


@pytest.mark.usefixtures("first_alone")
def test_another_worker_takes_over_and_late_words_and_files_of_the_first_are_gone(
    stack: Any, proxy: Proxy, undisturbed: Figures
) -> None:
    job_id = under_way(stack, SPEC)
    runner = psutil.Process(stack.runner_pid("worker-1"))
    with proxy.away():
        reached = epoch_on_disk(stack, job_id, attempt=1)

        def trains_on() -> bool:
            return epoch_on_disk(stack, job_id, attempt=1) > reached

        wait_until(trains_on, watch=stack.stack.check, what="the first runner", seconds=OUTAGE_SECONDS)
        stack.stack.kill_child("worker-2", signal.SIGCONT)
        stack.wait_for(job_id, lambda job: job["attempt"] == 2 and job["message"] == "Trains on cpu.", PATIENCE_SECONDS)
        own = "SELECT max(epoch) AS last FROM epochs WHERE job_id = %s AND attempt = 1"
        recorded = stack.rows(own, job_id)
        assert runner.is_running()
    runner.wait(PATIENCE_SECONDS)
    assert stack.wait_for_end(job_id, PATIENCE_SECONDS)["status"] == "succeeded"
    require_invariants(stack, [job_id], healed_at=last_start(stack, job_id), undisturbed=undisturbed)
    outcomes = stack.rows("SELECT worker, outcome FROM attempts WHERE job_id = %s ORDER BY number", job_id)
    assert [row["outcome"] for row in outcomes] == ["worker_lost", "succeeded"]
    assert outcomes[0]["worker"] != outcomes[1]["worker"]
    assert stack.rows(own, job_id) == recorded, "nothing of the first attempt was recorded after it was lost"


@pytest.mark.usefixtures("first_alone")
def test_what_a_runner_writes_after_the_job_has_ended_elsewhere_goes_when_its_worker_hears_of_that(
    stack: Any, proxy: Proxy
) -> None:
    job_id = under_way(stack, SPEC | {"training": SPEC["training"] | {"epochs": 12}})
    runner = psutil.Process(stack.runner_pid("worker-1"))
    with proxy.away():
        runner.suspend()  # it is slow
        stack.stack.kill_child("worker-2", signal.SIGCONT)
        assert stack.wait_for_end(job_id, PATIENCE_SECONDS)["status"] == "succeeded"
        (recorded,) = stack.rows("SELECT max(epoch) AS last FROM epochs WHERE job_id = %s AND attempt = 1", job_id)

        def has_late_files() -> bool:
            return epoch_on_disk(stack, job_id, attempt=1) > int(recorded["last"])

        runner.resume()
        wait_until(has_late_files, watch=stack.stack.check, what="the first runner", seconds=PATIENCE_SECONDS)
    runner.wait(PATIENCE_SECONDS)
    wait_until(lambda: not has_late_files(), watch=stack.stack.check, what="the first worker", seconds=PATIENCE_SECONDS)
    require_invariants(stack, [job_id], healed_at=last_start(stack, job_id))


@pytest.mark.usefixtures("first_alone")
def test_a_runner_ends_when_its_worker_was_cut_off_for_longer_than_the_setting(stack: Any, proxy: Proxy) -> None:
    job_id = under_way(stack, ENDLESS)
    runner = psutil.Process(stack.runner_pid("worker-1"))
    with proxy.away():
        reached = epoch_on_disk(stack, job_id, attempt=1)
        time.sleep(OUTAGE_SECONDS / 2)
        assert runner.is_running()
        assert epoch_on_disk(stack, job_id, attempt=1) > reached
        runner.wait(OUTAGE_SECONDS)
    stack.wait_for(job_id, lambda job: job["attempt"] == 2, PATIENCE_SECONDS)
    cancel(stack, job_id)
    require_invariants(stack, [job_id], healed_at=last_start(stack, job_id))
    outcomes = stack.rows("SELECT outcome FROM attempts WHERE job_id = %s ORDER BY number", job_id)
    assert outcomes == [{"outcome": "worker_lost"}, {"outcome": "cancelled"}]


@pytest.mark.usefixtures("first_alone")
def test_a_runner_ends_when_its_worker_is_suspended_while_it_is_cut_off(stack: Any, proxy: Proxy) -> None:
    job_id = under_way(stack, ENDLESS)
    runner = psutil.Process(stack.runner_pid("worker-1"))
    with proxy.away():
        stack.stack.kill_child("worker-1", signal.SIGSTOP)
        try:
            runner.wait(OUTAGE_SECONDS)
        finally:
            stack.stack.kill_child("worker-1", signal.SIGCONT)
    stack.wait_for(job_id, lambda job: job["attempt"] == 2, PATIENCE_SECONDS)
    cancel(stack, job_id)
    require_invariants(stack, [job_id], healed_at=last_start(stack, job_id))


@pytest.mark.usefixtures("first_alone")
def test_a_worker_that_is_told_to_stop_while_it_is_cut_off_is_gone_and_its_job_goes_on_elsewhere(
    stack: Any, proxy: Proxy, undisturbed: Figures
) -> None:
    job_id = under_way(stack, SPEC)
    worker = psutil.Process(stack.stack.pid("worker-1"))
    runner = psutil.Process(stack.runner_pid("worker-1"))
    with proxy.away():
        worker.terminate()
        runner.wait(OUTAGE_SECONDS)
        while stack.stack.is_running("worker-1"):
            time.sleep(0.05)
        stack.stack.kill_child("worker-2", signal.SIGCONT)
        assert stack.wait_for_end(job_id, PATIENCE_SECONDS)["status"] == "succeeded"
    stack.stack.start_child("worker-1")
    require_invariants(stack, [job_id], healed_at=last_start(stack, job_id), undisturbed=undisturbed)
