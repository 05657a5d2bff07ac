"""What an odd runner does before it trains, or in place of it, as the name of its job says; other jobs are trained."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from models.demand import GIB
from worker import runner
from worker.messages import Succeeded

PRINTED = GIB
_PIECE = 2**26


def hang() -> None:
    """Do nothing any more, in none of the threads: whoever waits for a word waits for ever."""
    os.kill(os.getpid(), signal.SIGSTOP)


def exit_well() -> None:
    """End as a process does that has done its work, without a result."""
    os._exit(0)


def print_much() -> None:
    """Print a gibibyte, the last line of which can be told."""
    line = b"x" * 1023 + b"\n"
    for _ in range(PRINTED // _PIECE):
        sys.stdout.buffer.write(line * (_PIECE // len(line)))
    print("printed all of it", flush=True)


def leave_child() -> None:
    """Start a process that would outlive this one by minutes, and has its output open; tell its id."""
    child = subprocess.Popen(["/bin/sleep", "600"])
    print(f"child {child.pid}", flush=True)


def hoard() -> None:
    """Take memory for ever, at a rate that no look at it can miss by much."""
    kept = []
    while True:
        kept.append(np.ones(_PIECE, dtype=np.uint8))
        time.sleep(0.2)


def hoard_in_child() -> None:
    """Let a process that this one started take the memory."""
    if os.fork() == 0:
        hoard()
    signal.pause()


def read_mapped() -> None:
    """Read a file of a gibibyte that is mapped: its pages are those of the kernel's cache."""
    with tempfile.NamedTemporaryFile() as file:
        os.truncate(file.name, GIB)
        int(np.memmap(Path(file.name), mode="r").sum())
        time.sleep(0.6)  # with all of it mapped, the memory is measured at least twice


def read_cut_short() -> None:
    """Read what was mapped of a file that is shorter by now."""
    with tempfile.NamedTemporaryFile() as file:
        os.truncate(file.name, _PIECE)
        mapped = np.memmap(Path(file.name), mode="r")
        os.truncate(file.name, 0)
        int(mapped[-1])


MISBEHAVIOURS: dict[str, Callable[[], None]] = {
    act.__name__: act
    for act in (hang, exit_well, print_much, leave_child, hoard, hoard_in_child, read_mapped, read_cut_short)
}


class OddRun(runner._Run):
    """An attempt that misbehaves first."""

    def outcome(self) -> Succeeded | None:
        MISBEHAVIOURS.get(self.spec.name or "", lambda: None)()
        return super().outcome()


runner._Run = OddRun  # type: ignore[misc]
