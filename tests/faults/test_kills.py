"""Every process killed at every moment of a job: the job ends as if nothing had been, and nothing is left behind."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from harness.figures import Figures
from harness.invariants import require_invariants
from harness.moments import MOMENTS, Moment, bring_about, see_through
from harness.short_job import SHORT_JOB, SOON_LOST

pytestmark = pytest.mark.usefixtures("whole")

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


@pytest.mark.usefixtures("own_servers")
@pytest.mark.parametrize(("component", "moment"), CASES)
def test_a_job_ends_as_undisturbed_though_this_is_killed(
    stack: Any, undisturbed: Figures, component: str, moment: Moment
) -> None:
    with ThreadPoolExecutor(1) as user, ExitStack() as faults:
        held = bring_about(stack, SHORT_JOB, moment, faults, user)
        kill(stack, component, held.pid)
        faults.close()
        status = see_through(stack, held, moment.request)
    # A job of which the cancel was lost may have ended before the user asked again.
    assert status == "succeeded" if moment.request != "cancel" else status in {"cancelled", "succeeded"}
    require_invariants(stack, [held.job_id], undisturbed=undisturbed)
    if component in {"api", "scheduler", "valkey"} and moment.request is None:
        assert stack.job_row(held.job_id)["attempt"] == 1, "a running job does not notice"
