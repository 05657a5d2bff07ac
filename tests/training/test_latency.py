"""The latency of a prediction: what is timed, how often, and in which unit."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.training import MakeSplit
from models.result import Latency
from models.spec import JobSpec
from worker.training.latency import _quantile, measure_latency
from worker.training.state import TrainState


class Watched(nn.Module):
    """Notes for each forward pass its batch size, whether it was in eval mode, and whether gradients were recorded."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen: list[tuple[int, bool, bool]] = []

    def forward(self, inputs: Tensor) -> Any:
        in_eval_mode = not any(module.training for module in self.modules())
        self.seen.append((len(inputs), in_eval_mode, torch.is_grad_enabled()))
        return self.network(inputs)


@pytest.fixture
def state(job: Callable[..., JobSpec], fresh: Callable[[JobSpec], TrainState]) -> TrainState:
    state = fresh(job({"name": "cnn", "channels": [16, 16], "batch_norm": True, "dropout2d": 0.3}))
    state.network = Watched(state.network).train()
    return state


def passes_of(state: TrainState) -> list[tuple[int, bool, bool]]:
    assert isinstance(state.network, Watched)
    return state.network.seen


@pytest.mark.parametrize("samples", [250, 3])
def test_every_timed_pass_is_in_eval_mode_without_gradients_on_a_full_batch(
    state: TrainState, pictures: MakeSplit, samples: int
) -> None:
    latency = measure_latency(state, pictures(samples))
    seen = passes_of(state)
    assert all(in_eval_mode and not with_gradients for _, in_eval_mode, with_gradients in seen)
    for measured, batch_size in ((latency.batch_1, 1), (latency.batch_100, 100)):
        passes = sum(size == batch_size for size, _, _ in seen)
        assert measured.batch_size == batch_size
        assert 1 <= measured.runs < passes, "warm-up comes first and is not counted"
    assert {size for size, _, _ in seen} == {1, 100}


@pytest.mark.parametrize("fitting", [1, 37])
def test_a_hundred_samples_that_do_not_fit_are_fewer_and_it_says_so(
    state: TrainState, pictures: MakeSplit, fitting: int
) -> None:
    state.evaluation_batch = fitting
    latency = measure_latency(state, pictures(250))
    assert (latency.batch_1.batch_size, latency.batch_100.batch_size) == (1, fitting)
    assert {size for size, _, _ in passes_of(state)} == {1, fitting}


def test_seconds_are_per_sample_and_the_slow_passes_are_in_the_p95(state: TrainState, pictures: MakeSplit) -> None:
    latency = measure_latency(state, pictures(100))
    for measured in (latency.batch_1, latency.batch_100):
        assert 0 < measured.median_seconds_per_sample <= measured.p95_seconds_per_sample < 10
    assert latency.batch_100.median_seconds_per_sample < 100 * latency.batch_1.median_seconds_per_sample


def test_a_slow_network_is_timed_in_the_right_unit(state: TrainState, pictures: MakeSplit) -> None:
    class Slow(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            time.sleep(0.005)
            return inputs

    state.network = Slow()
    latency = measure_latency(state, pictures(100))

    def seconds_per_pass(measured: Latency) -> float:
        return measured.median_seconds_per_sample * measured.batch_size

    assert 0.005 <= seconds_per_pass(latency.batch_1) < 0.2
    assert 0.005 <= seconds_per_pass(latency.batch_100) < 0.2


def test_a_quantile_is_the_nearest_rank() -> None:
    ascending = [float(value) for value in range(1, 101)]
    assert (_quantile(ascending, 0.5), _quantile(ascending, 0.95)) == (50.0, 95.0)
    assert (_quantile([3.0], 0.5), _quantile([3.0], 0.95)) == (3.0, 3.0)
    assert _quantile([1.0, 2.0], 0.95) == 2.0
