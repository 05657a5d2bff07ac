"""Workers that are killed, told to stop or suspended, with runners and forkservers: what becomes of their job."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import psutil
import pytest

from harness.figures import Figures
from harness.invariants import require_invariants
from harness.service import wait_until_dead
from harness.short_job import BATCHES_BEFORE, EPOCHS_BEFORE, SHORT_JOB, SOON_LOST
from local.children import wait_until
from models.faults import FaultPoint

pytestmark = pytest.mark.usefixtures("whole")

STOP_SECONDS = 30  # in which a worker that is told to stop is gone
ENDLESS = SHORT_JOB | {"training": {"epochs": 100_000}}


@pytest.fixture(scope="module")
def stack(start_service: Any) -> Any:
    """Two workers whose leases run out soon."""
    return start_service(workers=2, fault_points=True, **SOON_LOST)


@contextmanager
def in_an_epoch(stack: Any, spec: dict[str, Any] = SHORT_JOB) -> Iterator[tuple[str, psutil.Process, str]]:
    """Yield a job, its runner, which is held in an epoch for the body, and its worker."""
    with stack.faults.holding(FaultPoint.EPOCH, passes=BATCHES_BEFORE) as reached:
        job_id = stack.submit(spec)
        runner = psutil.Process(reached())
        yield job_id, runner, stack.worker_with(runner.pid)


def outcomes(stack: Any, job_id: str) -> list[str]:
    """Return how each attempt ended."""
    attempts = stack.rows("SELECT outcome FROM attempts WHERE job_id = %s ORDER BY number", job_id)
    return [attempt["outcome"] for attempt in attempts]


def test_a_killed_runner_is_seen_at_once_and_not_with_its_lease(start_service: Any) -> None:
    patient = start_service(fault_points=True, lease_seconds=600)
    with in_an_epoch(patient) as (job_id, runner, _):
        runner.kill()
    assert patient.wait_for_end(job_id)["status"] == "succeeded"
    assert outcomes(patient, job_id) == ["runner_died", "succeeded"]
    require_invariants(patient, [job_id])


def test_a_lost_worker_is_noticed_while_no_other_is_alive(stack: Any, undisturbed: Figures) -> None:
    with in_an_epoch(stack) as (job_id, runner, worker):
        for name in ("worker-1", "worker-2"):
            stack.stack.kill_child(name)
        wait_until_dead(runner, seconds=20)  # nobody would record what it does
        job = stack.wait_for(job_id, lambda job: job["status"] == "queued")
        assert (job["reason"], outcomes(stack, job_id)) == ("worker_lost", ["worker_lost"])
    stack.stack.start_child(worker)
    assert stack.wait_for_end(job_id)["status"] == "succeeded"
    require_invariants(stack, [job_id], undisturbed=undisturbed)


def test_a_worker_that_is_told_to_stop_is_soon_gone_and_its_job_ends_elsewhere(
    stack: Any, undisturbed: Figures
) -> None:
    with in_an_epoch(stack) as (job_id, runner, worker):
        stack.stack.kill_child(worker, signal.SIGTERM)
        stack.wait_until_gone(worker, STOP_SECONDS)
        wait_until_dead(runner, seconds=20)
    assert stack.wait_for_end(job_id)["status"] == "succeeded"
    assert outcomes(stack, job_id) == ["preempted", "succeeded"]
    first, second = stack.rows("SELECT worker FROM attempts WHERE job_id = %s ORDER BY number", job_id)
    assert first != second
    assert stack.job_row(job_id)["retries"] == 0, "that is no loss"
    require_invariants(stack, [job_id], undisturbed=undisturbed)


@pytest.mark.parametrize(
    "numbers", [[signal.SIGQUIT], [signal.SIGINT, signal.SIGINT], [signal.SIGTERM, signal.SIGQUIT], [signal.SIGHUP]]
)
def test_whichever_way_a_worker_is_told_to_stop_it_gives_its_job_back_and_is_gone(
    stack: Any, undisturbed: Figures, numbers: list[signal.Signals]
) -> None:
    with in_an_epoch(stack) as (job_id, runner, worker):
        before = len(stack.log(worker))
        for number in numbers:
            stack.stack.kill_child(worker, number)
            time.sleep(0.15)  # as a person presses Ctrl-C
        stack.wait_until_gone(worker, STOP_SECONDS)
        assert "Traceback" not in stack.log(worker)[before:], "it did not start itself again, as Celery would"
        wait_until_dead(runner, seconds=20)
    assert stack.wait_for_end(job_id)["status"] == "succeeded"
    assert outcomes(stack, job_id) == ["preempted", "succeeded"]
    require_invariants(stack, [job_id], undisturbed=undisturbed)


def test_without_a_scheduler_a_busy_worker_ends_the_lease_of_a_lost_one(stack: Any) -> None:
    jobs = [stack.submit(ENDLESS) for _ in range(2)]
    for job_id in jobs:
        stack.wait_for_epoch(job_id, 1)
    (lost,) = stack.rows("SELECT job_id::text FROM attempts WHERE worker LIKE '%%-2' AND ended_at IS NULL")
    for name in ("scheduler", "worker-2"):
        stack.stack.kill_child(name)
    stack.wait_for(lost["job_id"], lambda job: job["reason"] == "worker_lost")
    assert {stack.job(job_id)["status"] for job_id in jobs} == {"queued", "running"}
    for job_id in jobs:
        stack.http.post(f"/jobs/{job_id}/cancel").raise_for_status()
        assert stack.wait_for_end(job_id)["status"] == "cancelled"
    require_invariants(stack, jobs)


def test_what_a_suspended_host_writes_after_its_lease_is_refused_and_removed(stack: Any, undisturbed: Figures) -> None:
    with stack.faults.holding(FaultPoint.CHECKPOINT_SAVED, passes=EPOCHS_BEFORE) as reached:
        job_id = stack.submit(SHORT_JOB)
        runner = psutil.Process(reached())  # it has a checkpoint that nobody knows of
        worker = stack.worker_with(runner.pid)
        stack.wait_for_epoch(job_id, EPOCHS_BEFORE)
        stack.stack.kill_child(worker, signal.SIGSTOP)
        runner.suspend()
        try:
            assert stack.wait_for_end(job_id)["status"] == "succeeded"
            written = stack.rows("SELECT * FROM epochs WHERE job_id = %s ORDER BY epoch", job_id)
            # What a runner writes that was in the middle of it when its host was suspended.
            late = stack.stack.artifacts / job_id / "checkpoint-0001-000005.pt"
            late.write_bytes(b"late")
        finally:
            stack.faults.release(FaultPoint.CHECKPOINT_SAVED)
            runner.resume()
            stack.stack.kill_child(worker, signal.SIGCONT)
            healed_at = stack.now()
    wait_until_dead(runner, seconds=20)
    wait_until_gone(late)
    assert stack.rows("SELECT * FROM epochs WHERE job_id = %s ORDER BY epoch", job_id) == written
    assert [row["attempt"] for row in written] == [1, 1, 2, 2, 2, 2], "it went on from what was recorded, no more"
    assert outcomes(stack, job_id) == ["worker_lost", "succeeded"]
    assert "attempt_superseded" in stack.log(worker)
    require_invariants(stack, [job_id], undisturbed=undisturbed, healed_at=healed_at)


def wait_until_gone(file: Any) -> None:
    deadline = time.monotonic() + 30
    while file.exists():
        assert time.monotonic() < deadline, f"{file.name} was left lying about"
        time.sleep(0.02)


def test_a_runner_outlives_neither_its_suspended_worker_nor_its_lease(stack: Any, undisturbed: Figures) -> None:
    with in_an_epoch(stack) as (job_id, runner, worker):
        stack.stack.kill_child(worker, signal.SIGSTOP)
        try:
            stack.wait_for(job_id, lambda job: job["attempt"] == 2)
            wait_until_dead(runner, seconds=20)
            assert stack.wait_for_end(job_id)["status"] == "succeeded"
        finally:
            stack.stack.kill_child(worker, signal.SIGCONT)
            healed_at = stack.now()
    require_invariants(stack, [job_id], undisturbed=undisturbed, healed_at=healed_at)


def test_a_killed_forkserver_takes_no_runner_out_of_sight(stack: Any, undisturbed: Figures) -> None:
    with in_an_epoch(stack) as (job_id, runner, _):
        forkserver = runner.parent()
        assert forkserver is not None
        forkserver.kill()
        wait_until_dead(runner, seconds=20)
    assert stack.wait_for_end(job_id)["status"] == "succeeded"
    assert outcomes(stack, job_id) == ["runner_died", "succeeded"]
    require_invariants(stack, [job_id], undisturbed=undisturbed)


def test_a_forkserver_that_was_killed_while_idle_is_started_again(stack: Any, undisturbed: Figures) -> None:
    workers = ("worker-1", "worker-2")
    ready = [stack.log(name).count("event=slots_ready") for name in workers]
    for name in workers:
        for server in psutil.Process(stack.stack.pid(name)).children():
            server.kill()
    job_id = stack.submit(SHORT_JOB)

    def are_ready() -> bool:
        return all(
            stack.log(name).count("event=slots_ready") > before for name, before in zip(workers, ready, strict=True)
        )

    wait_until(are_ready, watch=stack.stack.check, what="the workers", seconds=240)
    healed_at = stack.now()
    assert stack.wait_for_end(job_id)["status"] == "succeeded"
    require_invariants(stack, [job_id], undisturbed=undisturbed, healed_at=healed_at)


def forkserver_of(stack: Any, worker: str) -> psutil.Process:
    """Wait for the forkserver of a worker, which may just be starting one."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for child in psutil.Process(stack.stack.pid(worker)).children():
            with suppress(psutil.NoSuchProcess):  # its worker has taken note of its end just now
                if child.status() != psutil.STATUS_ZOMBIE and "multiprocessing.forkserver" in " ".join(child.cmdline()):
                    return child
        time.sleep(0.001)
    raise AssertionError(f"{worker} has no forkserver")


def test_a_forkserver_that_takes_longer_than_a_lease_to_start_again_costs_no_attempt(
    stack: Any, undisturbed: Figures
) -> None:
    with stack.faults.holding(FaultPoint.CLAIMED) as reached:
        job_id = stack.submit(SHORT_JOB)
        worker = stack.worker_with(reached())
        server = forkserver_of(stack, worker)
        server.kill()
        wait_until_dead(server, seconds=20)
        claimed_at = stack.now()
    starting = forkserver_of(stack, worker)
    starting.suspend()
    try:
        lease = timedelta(seconds=SOON_LOST["lease_seconds"])
        stack.wait_for(job_id, lambda _: stack.now() > claimed_at + 2 * lease)
    finally:
        starting.resume()
    assert stack.wait_for_end(job_id)["status"] == "succeeded"
    assert outcomes(stack, job_id) == ["succeeded"]
    require_invariants(stack, [job_id], undisturbed=undisturbed)


def test_a_job_whose_runner_always_dies_fails_after_its_retries(stack: Any) -> None:
    job_id = stack.submit(ENDLESS)
    for attempt in range(1, 5):
        stack.wait_for(job_id, lambda job, n=attempt: job["attempt"] == n and job["message"] == "Trains on cpu.")
        (row,) = stack.rows("SELECT worker FROM attempts WHERE job_id = %s AND ended_at IS NULL", job_id)
        os.kill(stack.runner_pid(f"worker-{row['worker'].rpartition('-')[2]}"), signal.SIGKILL)
    job = stack.wait_for_end(job_id)
    assert (job["status"], job["reason"]) == ("failed", "runner_died")
    assert "signal 9" in job["message"]
    assert outcomes(stack, job_id) == ["runner_died"] * 4
    require_invariants(stack, [job_id])


def test_a_runner_knows_no_way_to_the_database(stack: Any) -> None:
    with in_an_epoch(stack) as (job_id, runner, _):
        assert not {"DATABASE_URL", "REDIS_URL"} & set(runner.environ())
    assert stack.wait_for_end(job_id)["status"] == "succeeded"


def test_a_runner_that_is_cancelled_while_it_writes_a_checkpoint_leaves_no_part_of_it(stack: Any) -> None:
    with stack.faults.holding(FaultPoint.CHECKPOINT_WRITE, passes=EPOCHS_BEFORE) as reached:
        job_id = stack.submit(SHORT_JOB)
        reached()
        stack.http.post(f"/jobs/{job_id}/cancel")
        assert stack.wait_for_end(job_id)["status"] == "cancelled"
    wait_until_gone(stack.stack.artifacts / job_id / "checkpoint-0001-000003.part")
    require_invariants(stack, [job_id])
