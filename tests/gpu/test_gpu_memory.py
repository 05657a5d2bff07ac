"""The memory of a real GPU that several jobs share: each keeps to what it asked for, and one that cannot goes alone."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from models.demand import CUDA_CONTEXT_BYTES, GIB
from worker.failures import failure_of
from worker.gpus import usable_gpus
from worker.training.memory import bound_tensors, peak_reserved_bytes

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU on this machine")

MIB = 2**20


@pytest.fixture
def bounded() -> Iterator[Callable[[int], None]]:
    """Bound this process's tensors, and free them again."""
    torch.cuda.empty_cache()
    yield bound_tensors
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_process_that_takes_more_than_it_asked_for_runs_out_of_memory_itself(
    bounded: Callable[[int], None],
) -> None:
    bounded(CUDA_CONTEXT_BYTES + torch.cuda.memory_reserved() + 256 * MIB)
    held = torch.empty(128 * MIB, dtype=torch.uint8, device="cuda")
    with pytest.raises(torch.OutOfMemoryError) as raised:
        torch.empty(256 * MIB, dtype=torch.uint8, device="cuda")
    failure = failure_of(raised.value)
    assert (failure.reason, failure.cuda) == ("out_of_memory", True)
    assert peak_reserved_bytes() >= held.numel()


def test_jobs_may_have_as_much_of_a_gpu_as_cuda_counts_but_for_little() -> None:
    offered = {gpu.memory_bytes for gpu in usable_gpus()}
    total = torch.cuda.get_device_properties().total_memory
    assert min(abs(size - total) for size in offered) < GIB // 4


def test_a_job_that_asked_for_too_little_goes_on_alone_and_the_next_one_is_given_what_it_took(
    start_service: Any,
) -> None:
    service = start_service(slots=2)
    spec = {
        "dataset": {"name": "digits"},
        "network": {"name": "mlp", "hidden": [8_192, 8_192]},  # weights and gradients alone are half a GiB
        "training": {"epochs": 1},
        "resources": {"device": "cuda", "gpu_memory_gb": 0.6},
    }
    job_id = service.submit(spec)
    assert service.wait_for_end(job_id)["status"] == "succeeded"
    moves = service.rows("SELECT to_status, reason FROM transitions WHERE job_id = %s ORDER BY id", job_id)
    assert [(move["to_status"], move["reason"]) for move in moves] == [
        ("queued", None),
        ("running", None),
        ("queued", "out_of_memory"),
        ("running", None),
        ("succeeded", None),
    ]
    (job,) = service.rows("SELECT exclusive, retries FROM jobs WHERE id = %s", job_id)
    assert job == {"exclusive": True, "retries": 0}
    auto = service.submit(spec | {"resources": {"device": "cuda"}})
    assert service.wait_for_end(auto)["status"] == "succeeded"
    (like,) = service.rows("SELECT gpu_memory_bytes FROM jobs WHERE id = %s", auto)
    assert like["gpu_memory_bytes"] > GIB
