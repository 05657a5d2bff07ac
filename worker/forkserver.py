"""The forkserver of a worker: a process that has torch imported and never used CUDA; all runners are its forks."""

import os
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext

import psutil


def forkserver() -> ForkServerContext:
    """Return the process context of all runners."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["worker.preload"])
    return context


class WarmForkserver:
    """Sees to it that torch is imported before a job is claimed: that takes seconds, in which its lease would run."""

    def __init__(self, context: ForkServerContext) -> None:
        """Start nothing yet."""
        self._context = context
        self._process: psutil.Process | None = None

    def make_ready(self) -> bool:
        """Return when the next runner starts at once, and whether that was not so before: at first, and after a kill.

        Raises OSError or EOFError where it is killed meanwhile.
        """
        if self._process is not None and _lives(self._process):
            return False
        ours, theirs = self._context.Pipe(duplex=False)
        with ours:
            first = self._context.Process(target=_tell_parent, args=(theirs,))
            first.start()
            theirs.close()
            self._process = psutil.Process(ours.recv())
            first.join()
        return True


def _tell_parent(ours: Connection) -> None:
    """What the first process of a forkserver does; where the worker was killed meanwhile, nobody listens."""
    with suppress(BrokenPipeError):
        ours.send(os.getppid())


def _lives(process: psutil.Process) -> bool:
    """Tell whether it runs; one that nobody has waited for does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
