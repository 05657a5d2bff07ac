"""What tests share that disturb a `stack` of their module: what its job comes to undisturbed, and its repair."""

from collections.abc import Iterator
from typing import Any

import pytest

from harness.figures import Figures, figures_of
from harness.short_job import SHORT_JOB
from models.faults import FaultPoint


@pytest.fixture(scope="module")
def undisturbed(stack: Any) -> Figures:
    """What the job comes to where nobody disturbs it."""
    job_id = stack.submit(SHORT_JOB)
    assert stack.wait_for_end(job_id)["status"] == "succeeded"
    return figures_of(stack, job_id)


@pytest.fixture
def whole(stack: Any) -> Iterator[None]:
    """Leave a whole stack to the next test, also where this one fails."""
    yield
    for point in FaultPoint:
        stack.faults.release(point)
    for name in stack.stack.children:
        if not stack.stack.is_running(name):
            stack.stack.start_child(name)
    stack.stack.wait_until_ready()
