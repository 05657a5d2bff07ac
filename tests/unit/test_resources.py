"""What a spec may ask of the machine: wishes that contradict each other, or the training, are refused by name."""

from typing import Any

import pytest
from pydantic import ValidationError

from models.errors import InvalidSpec
from models.spec import JobSpec


def spec(training: dict[str, Any] | None = None, **resources: Any) -> JobSpec:
    body = {"dataset": {"name": "digits"}, "network": {"name": "mlp"}, "training": training or {}}
    return JobSpec.model_validate(body | {"resources": resources})


def refused(training: dict[str, Any] | None = None, **resources: Any) -> list[tuple[str, str]]:
    with pytest.raises(InvalidSpec) as refusal:
        spec(training, **resources).resolved()
    return [(error.loc, error.code) for error in refusal.value.errors]


@pytest.mark.parametrize(
    ("wish", "value"), [("gpus", 2), ("gpu_memory_gb", 4), ("gpu_memory_gb", 0.75), ("exclusive", True)]
)
def test_a_job_for_the_cpu_that_says_something_of_gpus_is_refused(wish: str, value: Any) -> None:
    assert refused(device="cpu", **{wish: value}) == [(f"resources.{wish}", "conflict")]
    spec(device="auto", **{wish: value}).resolved()


def test_every_wish_that_contradicts_the_cpu_is_named() -> None:
    found = refused(device="cpu", gpus=2, gpu_memory_gb=1, exclusive=True)
    assert [loc for loc, _ in found] == ["resources.gpus", "resources.gpu_memory_gb", "resources.exclusive"]


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_batch_has_an_equal_part_for_each_gpu(device: str) -> None:
    assert refused({"batch_size": 64}, device=device, gpus=3) == [("training.batch_size", "conflict")]
    spec({"batch_size": 63}, device=device, gpus=3).resolved()


def test_replicas_train_on_one_gpu() -> None:
    assert refused({"replicas": 2, "batch_size": 64}, gpus=2) == [("training.replicas", "conflict")]
    spec({"replicas": 2}, gpus=1).resolved()


@pytest.mark.parametrize("gigabytes", [0, 0.5, 1_025, -1])
def test_less_memory_than_cuda_itself_takes_or_more_than_any_gpu_has_is_refused(gigabytes: float) -> None:
    with pytest.raises(ValidationError, match="gpu_memory_gb"):
        spec(gpu_memory_gb=gigabytes)
