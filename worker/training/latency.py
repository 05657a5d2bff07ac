"""How long one prediction takes, at batch size 1 and 100."""

import math
import time

import torch

from models.result import Latency, LatencyByBatch
from worker.training.data import BatchedSplit
from worker.training.loop import now
from worker.training.state import TrainState

_WARM_UP_RUNS = 10
_MIN_RUNS = 100
_MAX_SECONDS = 2.0


def measure_latency(state: TrainState, samples: BatchedSplit) -> LatencyByBatch:
    """Time eager forward passes in eval mode, in the job's precision, on inputs already on the device.

    Where a hundred samples at once need more memory than an evaluation may take, `batch_100` has fewer, and says so in
    its `batch_size`; see `Latency` for the units.
    """
    hundred = min(100, state.evaluation_batch)
    return LatencyByBatch(batch_1=_latency(state, samples, 1), batch_100=_latency(state, samples, hundred))


def _latency(state: TrainState, samples: BatchedSplit, batch_size: int) -> Latency:
    # A split smaller than the batch is repeated: what is timed is the size, not the content.
    inputs, _ = samples.batch(torch.arange(batch_size, device=state.device) % len(samples))
    state.network.eval()
    seconds: list[float] = []
    with torch.no_grad():
        for _ in range(_WARM_UP_RUNS):
            state.forward(inputs)
        begun = time.perf_counter()
        while len(seconds) < _MIN_RUNS and time.perf_counter() - begun < _MAX_SECONDS:
            started = now(state.device)
            state.forward(inputs)
            seconds.append(now(state.device) - started)
    seconds.sort()
    return Latency(
        batch_size=batch_size,
        runs=len(seconds),
        median_seconds_per_sample=_quantile(seconds, 0.5) / batch_size,
        p95_seconds_per_sample=_quantile(seconds, 0.95) / batch_size,
    )


def _quantile(ascending: list[float], fraction: float) -> float:
    """Return the nearest-rank quantile."""
    return ascending[max(0, math.ceil(fraction * len(ascending)) - 1)]
