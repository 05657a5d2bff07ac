"""A worker that says it has two GPUs, and whose ranks train on the CPU: `python -m harness.pretended_gpus`."""

from models.demand import GIB
from worker import start
from worker.gpus import Gpu

_GPUS = [Gpu(f"GPU-{name}", "pretended", (9, 0), GIB) for name in ("a", "b")]

start.usable_gpus = lambda: _GPUS  # type: ignore[attr-defined]
start.main()
