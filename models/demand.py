"""What a job asks of a worker, and by what jobs are known to be alike: pure functions of a resolved spec."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

GIB = 2**30
CUDA_CONTEXT_BYTES = GIB // 2  # what CUDA and its libraries take of a GPU in each process, beside the tensors
PEAK_MARGIN = 1.2  # like jobs are given the measured peak times this: two runs of one job differ by some of it


@dataclass(frozen=True)
class Demand:
    """What one job takes of a worker while it runs, besides a slot.

    `gpus` is how many it takes where it runs on GPUs, 0 for a job of the CPU. `gpu_memory_bytes` is what it takes of
    each, None where nobody knows: such a job has its GPU for itself, as an exclusive one and one of several GPUs has.
    """

    device: str  # auto, cpu or cuda
    gpus: int
    gpu_memory_bytes: int | None
    exclusive: bool

    @property
    def takes_whole_gpus(self) -> bool:
        """Whether nothing else may run on its GPUs."""
        return self.exclusive or self.gpus > 1 or self.gpu_memory_bytes is None


def demand_of(spec: dict[str, Any]) -> Demand:
    """Return what a resolved spec asks for; a memory of "auto" is None until like jobs have been measured."""
    resources = spec["resources"]
    if resources["device"] == "cpu":
        return Demand("cpu", 0, None, exclusive=False)
    memory = resources["gpu_memory_gb"]
    return Demand(
        device=resources["device"],
        gpus=resources["gpus"],
        gpu_memory_bytes=None if memory == "auto" else round(memory * GIB),
        exclusive=resources["exclusive"],
    )


def likeness(spec: dict[str, Any]) -> str:
    """Return the key that jobs share whose epochs take the same time on the same device: network, data, batch size.

    What else a step costs belongs to it: replicas, precision, augmentation, GPUs. The number of epochs does not.
    """
    training = spec["training"]
    alike = {
        "network": spec["network"],
        "dataset": spec["dataset"],
        "training": {name: training.get(name) for name in ("batch_size", "replicas", "precision", "augmentation")},
        "optimizer": training["optimizer"]["name"],
        "gpus": spec["resources"]["gpus"],
    }
    return hashlib.blake2b(json.dumps(alike, sort_keys=True).encode(), digest_size=16).hexdigest()
