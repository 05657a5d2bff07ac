"""Which process this is, in a text by which another one of the same machine can tell whether it still lives."""

import os
from pathlib import Path

import psutil

_CLOCK_SECONDS = 2  # by which the time that a process started at may seem to differ


def this_process() -> str:
    """Return `<machine> <process id> <when it started>`."""
    process = psutil.Process()
    return f"{_machine()} {process.pid} {process.create_time():.0f}"


def still_lives(process: str) -> bool | None:
    """Tell whether a process lives by what `this_process` said there; None where that is not seen from here."""
    machine, pid, started = process.split()
    if machine != _machine():
        return None
    try:
        found = psutil.Process(int(pid))
        is_it = abs(found.create_time() - float(started)) <= _CLOCK_SECONDS
        return is_it and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _machine() -> str:
    """Return what names this machine since it was started, and the room in which its process ids hold."""
    boot, room = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if boot.exists() and room.exists():
        return f"{boot.read_text().strip()}/{room.stat().st_ino}"
    return f"{os.uname().nodename}/{psutil.boot_time():.0f}"
