"""The memory that a job may have: who says so, and what counts."""

import os
import subprocess
import sys
import time

import pytest
from pydantic import ValidationError

from models.spec import ResourcesSpec
from worker.memory_limit import MemoryLimit, at_most_used, used_bytes

MIB = 2**20
# In a group of its own: so many bytes for each of two processes, and a line once they have them.
HOLDERS = """
import os, sys, time
os.setpgid(0, 0)
kept = b"x" * int(sys.argv[1])
if os.fork():
    print("ready", flush=True)
else:
    kept = b"y" * int(sys.argv[1])
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("asked", "cap", "expected"),
    [
        (None, None, None),
        (2.0, None, MemoryLimit(2.0, "resources.memory_gb")),
        (None, 3.0, MemoryLimit(3.0, "the worker's TRAINYARD_RUNNER_MEMORY_GB")),
        (2.0, 3.0, MemoryLimit(2.0, "resources.memory_gb")),
        (4.0, 3.0, MemoryLimit(3.0, "the worker's TRAINYARD_RUNNER_MEMORY_GB")),
    ],
)
def test_the_lower_limit_holds(asked: float | None, cap: float | None, expected: MemoryLimit | None) -> None:
    assert MemoryLimit.lower_of(asked, cap) == expected


def test_all_processes_of_the_group_count_and_shared_pages_once() -> None:
    size = 64 * MIB
    with subprocess.Popen([sys.executable, "-c", HOLDERS, str(size)], stdout=subprocess.PIPE, text=True) as holders:
        assert holders.stdout is not None
        try:
            assert holders.stdout.readline() == "ready\n"
            while (used := used_bytes(holders.pid)) < 2 * size:  # the child has yet to take its own
                assert holders.poll() is None
            assert used < 2 * size + 40 * MIB
            assert used <= at_most_used(holders.pid)
            assert MemoryLimit(1.0, "a test").overrun(holders.pid) is None
            said = MemoryLimit(0.1, "a test").overrun(holders.pid)
            assert said is not None
            assert said.endswith("GiB of memory; its limit is 0.1 GiB, by a test.")
        finally:
            os.killpg(holders.pid, 9)
    deadline = time.monotonic() + 10
    while used_bytes(holders.pid):  # nobody waited for the end of the second one
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("memory_gb", [0, 0.4, -1, 1e9, float("nan"), "2", True])
def test_a_limit_that_no_runner_could_keep_is_refused(memory_gb: object) -> None:
    with pytest.raises(ValidationError, match="memory_gb"):
        ResourcesSpec.model_validate({"memory_gb": memory_gb})
