"""The most memory that the processes of one job may have together, and whether they have more."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from models.demand import GIB

_PROC = Path("/proc")
_KIB = 1024
# In the kernel's words, of /proc/<pid>/status and /proc/<pid>/smaps_rollup (proc(5)): pages that no file stands behind.
# Those of a data set that is mapped are the page cache's, which gives them back by itself.
_AT_MOST = ("RssAnon", "RssShmem", "VmSwap")  # shared ones count in each process; the kernel has the sums at hand
_SHARES = ("Pss_Anon", "Pss_Shmem", "SwapPss")  # shared ones count in part; the kernel walks all pages for it


@dataclass(frozen=True)
class MemoryLimit:
    """A limit in GiB, and the setting or field that says so."""

    gib: float
    set_by: str

    @classmethod
    def lower_of(cls, asked: float | None, cap: float | None) -> "MemoryLimit | None":
        """Return the lower of what a spec asks for and what its worker gives at most; None where neither is said."""
        limits = [
            cls(gib, set_by)
            for gib, set_by in ((asked, "resources.memory_gb"), (cap, "the worker's TRAINYARD_RUNNER_MEMORY_GB"))
            if gib is not None
        ]
        return min(limits, key=lambda limit: limit.gib, default=None)

    def overrun(self, group: int) -> str | None:
        """Return the sentence that says what the process group has and may have; None where it is within the limit."""
        allowed = self.gib * GIB
        # The cheap sum first: it is too large by what is shared, so what is within the limit by it is so for certain.
        if at_most_used(group) <= allowed or (used := used_bytes(group)) <= allowed:
            return None
        shown = math.ceil(used / GIB * 100) / 100  # rounded up, so that it is not the limit itself that is named
        return f"The job used {shown:.2f} GiB of memory; its limit is {self.gib:g} GiB, by {self.set_by}."


def used_bytes(group: int) -> int:
    """Return the bytes of memory that a process group has for itself: swapped ones too, mapped files not."""
    return sum(_kept_by(pid, "smaps_rollup", _SHARES) for pid in _members(group))


def at_most_used(group: int) -> int:
    """Return what `used_bytes` does not exceed, at a cost that does not grow with the memory."""
    return sum(_kept_by(pid, "status", _AT_MOST) for pid in _members(group))


def _members(group: int) -> Iterator[int]:
    for pid in psutil.pids():
        with suppress(ProcessLookupError, PermissionError):  # ended since, or somebody else's
            if os.getpgid(pid) == group:
                yield pid


def _kept_by(pid: int, file: str, kinds: tuple[str, ...]) -> int:
    """Return the bytes of these kinds that a process has, 0 where it has ended."""
    if not _PROC.is_dir():  # macOS, which tells what is a process's own alone
        with suppress(psutil.Error):
            return int(psutil.Process(pid).memory_full_info().uss)
        return 0
    try:
        lines = (_PROC / str(pid) / file).read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    said = dict(line.split(":", 1) for line in lines if ":" in line)
    return sum(int(said[kind].split()[0]) * _KIB for kind in kinds if kind in said)
