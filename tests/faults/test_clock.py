"""The clock of a host stepped while it works: leases go by the database's time, and waits by a monotonic one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.figures import figures_of
from harness.invariants import require_invariants

SPEC: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "network": {"name": "mlp", "hidden": [32], "dropout": 0.2},
    "training": {"epochs": 150, "seed": 5},
}
PATIENCE_SECONDS = 240  # on a machine that is busy with other things
DAY_SECONDS = 86_400
# Python imports this by its name at every start: the wall clock is then wrong by what the file beside it says.
_STEPPED = """
import time
from pathlib import Path

_step, _time, _time_ns = Path(__file__).with_name("step"), time.time, time.time_ns
time.time = lambda: _time() + int(_step.read_text())
time.time_ns = lambda: _time_ns() + int(_step.read_text()) * 1_000_000_000
"""


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """How the clock of a stack's worker and scheduler is stepped; returns the folder that they import from."""
    folder = tmp_path_factory.mktemp("clock")
    (folder / "sitecustomize.py").write_text(_STEPPED)

    def to(seconds: int) -> Path:
        aside = folder / "step.new"
        aside.write_text(str(seconds))
        aside.rename(folder / "step")
        return folder

    return to


@pytest.fixture(scope="module")
def stack(start_service: Any, step: Callable[[int], Path]) -> Any:
    wrong = {"PYTHONPATH": str(step(0))}
    service = start_service(
        lease_seconds=5,
        beat_seconds=0.5,
        poll_seconds=0.5,
        sweep_seconds=0.5,
        overrides_of={"worker-1": wrong, "scheduler": wrong},
    )
    service.wait_for_end(service.submit(SPEC), PATIENCE_SECONDS)
    return service


@pytest.mark.parametrize("seconds", [DAY_SECONDS, -DAY_SECONDS])
def test_a_step_of_the_clock_costs_no_lease_and_delays_no_job(
    seconds: int, stack: Any, step: Callable[[int], Path]
) -> None:
    running = stack.submit(SPEC)
    stack.wait_for(running, lambda job: job["progress"]["epoch"] >= 3, PATIENCE_SECONDS)
    waiting = stack.submit(SPEC)
    step(seconds)
    try:
        for job_id in (running, waiting):
            assert stack.wait_for_end(job_id, PATIENCE_SECONDS)["status"] == "succeeded"
    finally:
        step(0)
    require_invariants(stack, [running, waiting], undisturbed=figures_of(stack, running))
    attempts = stack.rows("SELECT outcome FROM attempts WHERE job_id = ANY(%s)", [running, waiting])
    assert attempts == [{"outcome": "succeeded"}] * 2
    at = stack.rows("SELECT abs(extract(epoch FROM clock_timestamp() - max(ended_at))) < 600 AS near FROM attempts")
    assert at == [{"near": True}], "times are the database's"
