"""A job of two GPUs, one of whose ranks, or what they need, is killed: it ends as if nothing had been."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import psutil
import pytest

from harness.figures import Figures, figures_of
from harness.invariants import require_invariants
from harness.moments import MOMENTS, Moment, bring_about, see_through
from harness.short_job import SHORT_JOB, SOON_LOST

pytestmark = pytest.mark.usefixtures("whole", "own_servers")

TWO_RANKS = SHORT_JOB | {"resources": {"gpus": 2}}
RANKS = ("rank 0", "rank 1")
KILLED_AT = {
    "as its data are read": (*RANKS, "worker"),
    "in an epoch": (*RANKS, "worker", "postgres"),
    "as a checkpoint is written": (*RANKS, "worker"),
    "between checkpoint and event": (*RANKS, "postgres"),
    "in its final evaluation": ("rank 0", "worker", "postgres"),  # the other rank is done by then
    "as its worker sees a cancel": (*RANKS, "worker"),
    "as its worker sees a pause": (*RANKS, "worker", "postgres"),
}
CASES = [
    pytest.param(victim, MOMENTS[name], id=f"{victim} {name}")
    for name, victims in KILLED_AT.items()
    for victim in victims
]


@pytest.fixture(scope="module")
def stack(start_service: Any) -> Any:
    """Two workers, each of which says that it has two GPUs; what a test kills is started again."""
    return start_service(workers=2, worker_module="harness.pretended_gpus", fault_points=True, **SOON_LOST)


@pytest.fixture(scope="module")
def undisturbed(stack: Any) -> Figures:
    """What the job comes to on two ranks where nobody disturbs it."""
    job_id = stack.submit(TWO_RANKS)
    assert stack.wait_for_end(job_id)["status"] == "succeeded"
    (attempt,) = stack.rows("SELECT gpus FROM attempts WHERE job_id = %s", job_id)
    assert len(attempt["gpus"]) == len(RANKS)
    return figures_of(stack, job_id)


def ranks_of(stack: Any, worker: str) -> list[psutil.Process]:
    """Return the processes of the one job of a worker, rank 0 first: it is the parent of the others."""
    (runner,) = stack.runners(worker)
    return [runner, *runner.children()]


def kill(stack: Any, victim: str, held: int) -> None:
    """Kill what has to do with the job of the held process; what a supervisor would start again is started again."""
    worker = stack.worker_with(held)
    if victim in RANKS:
        ranks_of(stack, worker)[RANKS.index(victim)].kill()
        return
    name = worker if victim == "worker" else victim
    stack.stack.kill_child(name)
    stack.stack.start_child(name)


@pytest.mark.parametrize(("victim", "moment"), CASES)
def test_a_job_of_two_ranks_ends_as_undisturbed_though_this_is_killed(
    stack: Any, undisturbed: Figures, victim: str, moment: Moment
) -> None:
    with ThreadPoolExecutor(1) as user, ExitStack() as faults:
        held = bring_about(stack, TWO_RANKS, moment, faults, user)
        kill(stack, victim, held.pid)
        faults.close()
        status = see_through(stack, held, moment.request)
    assert status == "succeeded" if moment.request != "cancel" else status in {"cancelled", "succeeded"}
    require_invariants(stack, [held.job_id], undisturbed=undisturbed)
    if victim in RANKS and moment.request is None:
        attempts = stack.rows("SELECT outcome FROM attempts WHERE job_id = %s ORDER BY number", held.job_id)
        assert [attempt["outcome"] for attempt in attempts] == ["runner_died", "succeeded"]
