"""Two who want the same job at the same moment: whoever comes second finds what the first one did."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from harness.figures import Figures
from harness.invariants import require_invariants
from harness.short_job import BATCHES_BEFORE, SHORT_JOB, SOON_LOST
from models.faults import FaultPoint

pytestmark = pytest.mark.usefixtures("whole")

WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND pid <> pg_backend_pid()"


@pytest.fixture(scope="module")
def stack(start_service: Any) -> Any:
    """One worker that does nothing unless it is woken: while it runs a job, only the scheduler ends leases."""
    return start_service(fault_points=True, **SOON_LOST | {"poll_seconds": 600})


@pytest.fixture
def ask(stack: Any) -> Iterator[Callable[[str, str], Future[httpx2.Response]]]:
    """How a user asks for something, without waiting for the answer."""
    with ThreadPoolExecutor(2) as users:
        yield lambda job_id, request: users.submit(stack.http.post, f"/jobs/{job_id}/{request}")


def wait_until_somebody_waits(stack: Any) -> None:
    """Return when a transaction waits for a lock: the second has come, and the first is not committed."""
    deadline = time.monotonic() + 10
    while not stack.rows(WAITING):
        assert time.monotonic() < deadline, "nobody came second"
        time.sleep(0.002)


def path(stack: Any, job_id: str) -> list[str]:
    """Return the statuses that the job went through."""
    moves = stack.rows("SELECT to_status FROM transitions WHERE job_id = %s ORDER BY id", job_id)
    return [move["to_status"] for move in moves]


def outcomes(stack: Any, job_id: str) -> list[str]:
    attempts = stack.rows("SELECT outcome FROM attempts WHERE job_id = %s ORDER BY number", job_id)
    return [attempt["outcome"] for attempt in attempts]


@pytest.mark.parametrize(("asked_for", "status_code"), [("cancel", 202), ("pause", 409)])
def test_who_comes_after_the_finish_finds_a_finished_job(
    stack: Any, undisturbed: Figures, ask: Any, asked_for: str, status_code: int
) -> None:
    with stack.faults.holding(FaultPoint.FINAL_TRANSACTION) as reached:
        job_id = stack.submit(SHORT_JOB)
        reached()
        answer = ask(job_id, asked_for)
        wait_until_somebody_waits(stack)
    assert answer.result().status_code == status_code
    assert path(stack, job_id) == ["queued", "running", "succeeded"]
    require_invariants(stack, [job_id], undisturbed=undisturbed)


@pytest.mark.parametrize(
    ("asked_for", "point", "end"),
    [("cancel", FaultPoint.CANCEL, "cancelled"), ("pause", FaultPoint.PAUSE, "succeeded")],
)
def test_a_finish_that_comes_after_the_request_knows_of_it(
    stack: Any, undisturbed: Figures, ask: Any, asked_for: str, point: FaultPoint, end: str
) -> None:
    with stack.faults.holding(FaultPoint.FINAL_EVALUATION) as evaluates, stack.faults.holding(point) as asked:
        job_id = stack.submit(SHORT_JOB)
        evaluates()
        answer = ask(job_id, asked_for)
        asked()
        stack.faults.release(FaultPoint.FINAL_EVALUATION)
        wait_until_somebody_waits(stack)  # the worker, with the result
    assert answer.result().status_code == 202
    assert stack.wait_for_end(job_id)["status"] == end
    assert path(stack, job_id) == ["queued", "running", {"cancel": "cancelling", "pause": "pausing"}[asked_for], end]
    require_invariants(stack, [job_id], undisturbed=undisturbed)


def test_a_cancel_that_comes_after_the_claim_reaches_the_attempt(stack: Any, ask: Any) -> None:
    with stack.faults.holding(FaultPoint.CLAIM) as reached:
        job_id = stack.submit(SHORT_JOB)
        reached()
        answer = ask(job_id, "cancel")
        wait_until_somebody_waits(stack)
    assert answer.result().json()["status"] == "cancelling"
    assert stack.wait_for_end(job_id)["status"] == "cancelled"
    assert path(stack, job_id) == ["queued", "running", "cancelling", "cancelled"]
    assert outcomes(stack, job_id) == ["cancelled"]
    require_invariants(stack, [job_id])


def test_a_claim_passes_over_a_job_that_is_being_cancelled(stack: Any, undisturbed: Figures, ask: Any) -> None:
    with stack.faults.holding(FaultPoint.EPOCH) as busy, stack.faults.holding(FaultPoint.CANCEL) as asked:
        before = stack.submit(SHORT_JOB)
        busy()
        job_id, behind = stack.submit(SHORT_JOB), stack.submit(SHORT_JOB)
        answer = ask(job_id, "cancel")
        asked()
        stack.faults.release(FaultPoint.EPOCH)
        wait_for_status(stack, behind, "succeeded")  # the job that was before it in the line is held still
    assert answer.result().json()["status"] == "cancelled"
    assert path(stack, job_id) == ["queued", "cancelled"]
    assert outcomes(stack, job_id) == []
    require_invariants(stack, [before, job_id, behind], undisturbed=undisturbed)


def wait_for_status(stack: Any, job_id: str, status: str) -> None:
    """Wait as somebody who reads the database: the API is held."""
    deadline = time.monotonic() + 120
    while stack.job_row(job_id)["status"] != status:
        assert time.monotonic() < deadline, stack.job_row(job_id)
        time.sleep(0.02)


def test_a_cancel_that_comes_after_the_loss_of_the_lease_keeps_the_job_from_its_next_attempt(
    stack: Any, ask: Any
) -> None:
    with stack.faults.holding(FaultPoint.EPOCH, passes=BATCHES_BEFORE) as reached:
        job_id = stack.submit(SHORT_JOB)
        reached()
        with stack.faults.holding(FaultPoint.EXPIRY) as reaper:
            stack.stack.kill_child("worker-1")
            assert reaper() == stack.stack.pid("scheduler")
            answer = ask(job_id, "cancel")
            wait_until_somebody_waits(stack)
    assert answer.result().json()["status"] == "cancelled"
    assert path(stack, job_id) == ["queued", "running", "queued", "cancelled"]
    assert outcomes(stack, job_id) == ["worker_lost"]
    require_invariants(stack, [job_id])


def test_a_lease_that_runs_out_during_a_cancel_ends_the_job_as_cancelled(stack: Any, ask: Any) -> None:
    with stack.faults.holding(FaultPoint.EPOCH, passes=BATCHES_BEFORE) as reached:
        job_id = stack.submit(SHORT_JOB)
        reached()
        with stack.faults.holding(FaultPoint.CANCEL) as asked:
            answer = ask(job_id, "cancel")
            asked()
            stack.stack.kill_child("worker-1")
            wait_until_lease_ran_out(stack, job_id)
    assert answer.result().json()["status"] == "cancelling"
    wait_for_status(stack, job_id, "cancelled")
    assert path(stack, job_id) == ["queued", "running", "cancelling", "cancelled"]
    assert outcomes(stack, job_id) == ["worker_lost"]
    require_invariants(stack, [job_id])


def wait_until_lease_ran_out(stack: Any, job_id: str) -> None:
    deadline = time.monotonic() + 120
    while not stack.rows("SELECT 1 FROM jobs WHERE id = %s AND lease_expires_at < clock_timestamp()", job_id):
        assert time.monotonic() < deadline, "the lease is renewed still"
        time.sleep(0.02)


@pytest.fixture
def lease_that_ran_out(stack: Any) -> Iterator[tuple[str, int]]:
    """A job whose worker is about to renew its lease, too late, and whose reaper has found that; who reaps."""
    with stack.faults.holding(FaultPoint.EPOCH, passes=BATCHES_BEFORE) as reached:
        job_id = stack.submit(SHORT_JOB)
        reached()
        with stack.faults.holding(FaultPoint.RENEWAL) as late, stack.faults.holding(FaultPoint.EXPIRY) as reaper:
            late()
            found = reaper()
            stack.faults.release(FaultPoint.RENEWAL)
            wait_until_somebody_waits(stack)  # the renewal, for the row that the reaper has locked
            yield job_id, found


def test_a_renewal_that_comes_between_finding_and_expiring_waits_and_finds_the_lease_lost(
    stack: Any, undisturbed: Figures, lease_that_ran_out: tuple[str, int]
) -> None:
    job_id, _ = lease_that_ran_out
    stack.faults.release(FaultPoint.EXPIRY)
    stack.faults.release(FaultPoint.EPOCH)
    assert stack.wait_for_end(job_id)["status"] == "succeeded"
    assert outcomes(stack, job_id) == ["worker_lost", "succeeded"]
    require_invariants(stack, [job_id], undisturbed=undisturbed)


def test_a_reaper_that_dies_between_finding_and_expiring_has_taken_nothing(
    stack: Any, undisturbed: Figures, lease_that_ran_out: tuple[str, int]
) -> None:
    job_id, reaper = lease_that_ran_out
    assert reaper == stack.stack.pid("scheduler")
    stack.stack.kill_child("scheduler")
    stack.faults.release(FaultPoint.EPOCH)
    assert stack.wait_for_end(job_id)["status"] == "succeeded"
    assert outcomes(stack, job_id) == ["succeeded"], "the lease was renewed late, and nobody had taken the job"
    require_invariants(stack, [job_id], undisturbed=undisturbed)


def test_a_job_whose_wake_up_was_never_sent_starts_all_the_same(stack: Any, undisturbed: Figures) -> None:
    with stack.faults.holding(FaultPoint.SUBMITTED) as reached:
        job_id = stack.submit(SHORT_JOB)
        assert reached() == stack.stack.pid("api")
        stack.stack.kill_child("api")
    wait_for_status(stack, job_id, "succeeded")
    stack.stack.start_child("api")
    stack.stack.wait_until_ready()
    assert outcomes(stack, job_id) == ["succeeded"]
    require_invariants(stack, [job_id], undisturbed=undisturbed)
