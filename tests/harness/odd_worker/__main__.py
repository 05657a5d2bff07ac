"""A worker whose runners misbehave: `python -m harness.odd_worker`, with the settings of any worker."""

from multiprocessing.context import ForkServerContext

from worker import slots
from worker.forkserver import forkserver
from worker.start import main


def _forkserver() -> ForkServerContext:
    """Return the context of all runners, each of which may be an odd one."""
    context = forkserver()
    context.set_forkserver_preload(["worker.preload", "harness.odd_worker.runners"])
    return context


slots.forkserver = _forkserver  # type: ignore[attr-defined]
main()
