"""What nothing can be faster than: our steps alone on one batch in place, and passes alone around the network."""

from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.ours import begin
from benchmarks.setting import Setting, Timed
from worker.training.latency import measure_latency
from worker.training.loop import now
from worker.training.state import TrainState

_GRAPH_WARM_UP_STEPS = 3  # torch asks for some before a capture
_SAMPLES = 1_000
_ROUNDS, _PASSES = 5, 10


def floor(setting: Setting) -> Timed:
    """Time `floor_steps` steps, optimiser included, on one batch that stands on the device, as ours formats it.

    On a GPU the step is one CUDA graph where that is faster.
    """
    state, inputs, targets = _one_batch(setting)
    found = [_timed(setting, state.device, lambda: _step(state, inputs, targets))]
    if state.device.type == "cuda":
        found.append(_timed(setting, state.device, _captured(state, inputs, targets)))
    return max(found, key=lambda timed: timed.rate)


def losses_of_floor(setting: Setting, steps: int) -> list[float]:
    """Return the losses of the first steps of the floor."""
    state, inputs, targets = _one_batch(setting)
    return [float(_step(state, inputs, targets)) for _ in range(steps)]


def latency(setting: Setting) -> list[tuple[int, float, float]]:
    """Return batch size, median seconds of a pass as a result says it, and the same of a bare loop around the network.

    One entry for each of the batch sizes of a result.
    """
    state, split = begin(setting, min(_SAMPLES, setting.images.samples))
    measured = measure_latency(state, split)
    found = []
    for each in (measured.batch_1, measured.batch_100):
        inputs, _ = split.batch(torch.arange(each.batch_size, device=state.device))
        bare = _bare_pass(state, inputs)
        found.append((each.batch_size, each.median_seconds_per_sample * each.batch_size, bare))
    return found


def _bare_pass(state: TrainState, inputs: Tensor) -> float:
    """Return the seconds of a pass, the median of rounds: the clock is read, and the device waited for, per round."""
    seconds = []
    with torch.no_grad():
        for _ in range(_ROUNDS):
            started = now(state.device)
            for _ in range(_PASSES):
                state.network(inputs)
            seconds.append((now(state.device) - started) / _PASSES)
    return median(seconds)


def _one_batch(setting: Setting) -> tuple[TrainState, Tensor, Tensor]:
    state, train = begin(setting, setting.row.batch_size)
    inputs, targets = train.batch(slice(None))
    state.network.train()
    return state, inputs, targets


def _step(state: TrainState, inputs: Tensor, targets: Tensor) -> Tensor:
    """Make one step and nothing else; return its loss on the device."""
    state.optimizer.zero_grad()
    loss = functional.cross_entropy(state.network(inputs), targets)
    loss.backward()
    state.optimizer.step()
    return loss.detach()


def _captured(state: TrainState, inputs: Tensor, targets: Tensor) -> Callable[[], object]:
    """Return what replays the step as one CUDA graph."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(_GRAPH_WARM_UP_STEPS):
            _step(state, inputs, targets)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _step(state, inputs, targets)
    return graph.replay


def _timed(setting: Setting, device: torch.device, step: Callable[[], object]) -> Timed:
    for _ in range(setting.row.warm_up_steps):
        step()
    started = now(device)
    for _ in range(setting.row.floor_steps):
        step()
    return Timed(setting.row.floor_steps * setting.row.batch_size, started, now(device))
