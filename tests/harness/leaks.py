"""What a fault must not leave behind: processes, sockets, shared memory."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from harness.service import SHARED_MEMORY, Service

_SECONDS = 60.0  # runners end at once; a forkserver that lost its worker first ends its import of torch
_SYSTEM_V = Path("/proc/sysvipc/shm")
_POSTGRES_STARTED = re.compile(r"\[(\d+)\] LOG:  starting PostgreSQL")


def require_nothing_leaked(service: Service) -> None:
    """Wait until nothing is left of processes that are gone and of jobs that have ended; fail after some seconds."""
    deadline = time.monotonic() + _SECONDS
    while left := [*_orphans(service), *_idle_runners(service), *_half_closed(service), *_shared_memory(service)]:
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.05)


def _orphans(service: Service) -> Iterator[str]:
    """Yield the stack's processes that are not ours any more; each works in one of the stack's folders."""
    folders = (service.data_dir.resolve(), service.stack.runtime.resolve())
    for process in psutil.process_iter(["cwd", "cmdline", "status"]):
        cwd = Path(process.info["cwd"] or "/")
        if process.info["status"] == psutil.STATUS_ZOMBIE or not any(cwd.is_relative_to(folder) for folder in folders):
            continue
        try:
            ours = os.getpid() in {parent.pid for parent in process.parents()}
        except psutil.NoSuchProcess:
            continue
        if not ours:
            yield f"process {process.pid} ({' '.join(process.info['cmdline'] or [])[:80]})"


def _idle_runners(service: Service) -> Iterator[str]:
    """Yield the runners and ranks that live, though no job does."""
    if service.rows("SELECT 1 FROM jobs WHERE status IN ('running', 'pausing', 'cancelling') LIMIT 1"):
        return
    for name in service.stack.children:
        if name.startswith("worker"):
            for rank in service.ranks(name):
                with suppress(psutil.NoSuchProcess):
                    if rank.status() != psutil.STATUS_ZOMBIE:
                        yield f"runner {rank.pid} of {name}"


def _half_closed(service: Service) -> Iterator[str]:
    """Yield the connections of the API whose client is gone and which it has not closed."""
    if service.stack.is_running("api"):
        for connection in psutil.Process(service.stack.pid("api")).net_connections("tcp"):
            if connection.status == psutil.CONN_CLOSE_WAIT:
                yield f"connection of the API to {connection.raddr}"


def _shared_memory(service: Service) -> Iterator[str]:
    """Yield the shared memory that nobody has open: new files of /dev/shm, segments of servers that are gone."""
    new = {path for path in SHARED_MEMORY.iterdir() if path not in service.shared_memory_before}
    if new:
        yield from (str(path) for path in new - _mapped())
    servers = {int(pid) for pid in _POSTGRES_STARTED.findall(service.log("postgres"))}
    for line in _SYSTEM_V.read_text().splitlines()[1:]:
        _, identifier, _, _, creator, _, attached, *_ = line.split()
        if int(creator) in servers and attached == "0":
            yield f"System V segment {identifier}"


def _mapped() -> set[Path]:
    found = set()
    for process in psutil.process_iter():
        try:
            found |= {Path(mapped.path) for mapped in process.memory_maps() if mapped.path.startswith("/dev/shm")}
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
