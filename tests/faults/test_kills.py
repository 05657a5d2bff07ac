"""Every process killed at every moment of a job: the job ends as if nothing had been, and nothing is left behind."""

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from harness.figures import Figures
from harness.invariants import require_invariants
from harness.short_job import BATCHES_BEFORE, EPOCHS_BEFORE, SHORT_JOB, SOON_LOST
from models.faults import FaultPoint

pytestmark = pytest.mark.usefixtures("whole")


@dataclass(frozen=True)
class Moment:
    """A point at which a process is held while another one, or it itself, is killed."""

    point: FaultPoint
    passes: int = 0
    request: str | None = None  # what a user asks for, so that the moment comes about
    has_runner: bool = True


MOMENTS = {
    "in its claim": Moment(FaultPoint.CLAIM, has_runner=False),
    "before its runner starts": Moment(FaultPoint.CLAIMED, has_runner=False),
    "as its data are read": Moment(FaultPoint.DATA_LOADING),
    "in an epoch": Moment(FaultPoint.EPOCH, BATCHES_BEFORE),
    "as a checkpoint is written": Moment(FaultPoint.CHECKPOINT_WRITE, EPOCHS_BEFORE),
    "between checkpoint and event": Moment(FaultPoint.CHECKPOINT_SAVED, EPOCHS_BEFORE),
    "in the transaction of an epoch": Moment(FaultPoint.EPOCH_TRANSACTION, EPOCHS_BEFORE),
    "in its final evaluation": Moment(FaultPoint.FINAL_EVALUATION),
    "in its final transaction": Moment(FaultPoint.FINAL_TRANSACTION, has_runner=False),
    "in the transaction of a cancel": Moment(FaultPoint.CANCEL, request="cancel"),
    "as its worker sees a cancel": Moment(FaultPoint.CANCEL_SEEN, request="cancel"),
    "in the transaction of a pause": Moment(FaultPoint.PAUSE, request="pause"),
    "as its worker sees a pause": Moment(FaultPoint.PAUSE_SEEN, request="pause"),
}
COMPONENTS = ("runner", "worker", "api", "scheduler", "valkey", "postgres")
CASES = [
    pytest.param(component, moment, id=f"{component} {name}")
    for name, moment in MOMENTS.items()
    for component in COMPONENTS
    if moment.has_runner or component != "runner"
]


@pytest.fixture(scope="module")
def stack(start_service: Any) -> Any:
    """Two workers whose leases run out soon; what a test kills is started again."""
    return start_service(workers=2, fault_points=True, **SOON_LOST)


def kill(stack: Any, component: str, held: int) -> None:
    """Kill what has to do with the job of the held process; what a supervisor would start again is started again."""
    if component == "runner":
        (runner,) = stack.runners(stack.worker_with(held))
        runner.kill()
        return
    name = stack.worker_with(held) if component == "worker" else component
    stack.stack.kill_child(name)
    stack.stack.start_child(name)


def ask(stack: Any, job_id: str, request: str) -> bool:
    """Ask for a cancel or a pause; return whether that was answered with success."""
    try:
        return bool(stack.http.post(f"/jobs/{job_id}/{request}").is_success)
    except httpx2.TransportError:
        return False


@dataclass(frozen=True)
class Held:
    """A job of which a process is held at a moment, and what became of the request that led there."""

    job_id: str
    pid: int  # of its worker, or of its runner
    answered: Future[bool] | None


def bring_about(stack: Any, moment: Moment, faults: ExitStack, user: ThreadPoolExecutor) -> Held:
    """Submit a job and return when the moment has come; `faults` ends it."""
    if moment.request is None:
        reached = faults.enter_context(stack.faults.holding(moment.point, passes=moment.passes))
        return Held(stack.submit(SHORT_JOB), reached(), None)
    in_an_epoch = faults.enter_context(stack.faults.holding(FaultPoint.EPOCH, passes=BATCHES_BEFORE))
    job_id = stack.submit(SHORT_JOB)
    runner = in_an_epoch()
    reached = faults.enter_context(stack.faults.holding(moment.point))
    answered = user.submit(ask, stack, job_id, moment.request)
    reached()
    return Held(job_id, runner, answered)


def see_through(stack: Any, held: Held, request: str | None) -> str:
    """Do what a user does who got no answer, or has paused a job; return the status that the job ends in."""
    if held.answered is not None and not held.answered.result():
        stack.stack.wait_until_ready()
        assert request is not None
        assert ask(stack, held.job_id, request) or stack.job(held.job_id)["status"] == "succeeded"
    if request == "pause":
        job = stack.wait_for(held.job_id, lambda job: job["status"] in {"paused", "succeeded"})
        if job["status"] == "paused":
            assert ask(stack, held.job_id, "resume")
    return str(stack.wait_for_end(held.job_id)["status"])


@pytest.mark.usefixtures("own_servers")
@pytest.mark.parametrize(("component", "moment"), CASES)
def test_a_job_ends_as_undisturbed_though_this_is_killed(
    stack: Any, undisturbed: Figures, component: str, moment: Moment
) -> None:
    with ThreadPoolExecutor(1) as user, ExitStack() as faults:
        held = bring_about(stack, moment, faults, user)
        kill(stack, component, held.pid)
        faults.close()
        status = see_through(stack, held, moment.request)
    # A job of which the cancel was lost may have ended before the user asked again.
    assert status == "succeeded" if moment.request != "cancel" else status in {"cancelled", "succeeded"}
    require_invariants(stack, [held.job_id], undisturbed=undisturbed)
    if component in {"api", "scheduler", "valkey"} and moment.request is None:
        assert stack.job_row(held.job_id)["attempt"] == 1, "a running job does not notice"
