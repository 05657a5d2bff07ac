"""What the host of a worker is, and how busy it is: processor, memory and GPUs, without torch or CUDA."""

import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import pynvml

from models.version import VERSION
from worker.control_groups import free_in_control_groups, memory_limits
from worker.gpus import Gpu
from worker.processor import processor_name, usable_cores


@dataclass(frozen=True)
class GpuLoad:
    """What a GPU does now; None where its driver does not say."""

    uuid: str
    memory_used_bytes: int | None
    utilisation_percent: int | None
    temperature_celsius: int | None


@dataclass(frozen=True)
class Host:
    """The host as it was when the worker started, of memory and cores what this process may use."""

    name: str
    version: str
    cores: int
    processor: str
    memory_bytes: int
    gpus: tuple[Gpu, ...]

    def load(self) -> dict[str, Any]:
        """Measure how busy it is; the processor's part counts from the last time that this thread asked."""
        free = min([psutil.virtual_memory().available, *free_in_control_groups()])
        return {
            "cpu_percent": psutil.cpu_percent(),
            "memory_used_bytes": max(0, self.memory_bytes - free),
            "gpus": [asdict(_load_of(gpu)) for gpu in self.gpus],
        }


def this_host(gpus: Sequence[Gpu], git_commit: str | None) -> Host:
    """Describe this host, whose usable GPUs are these; the version names the commit where it is known."""
    if gpus:
        with suppress(pynvml.NVMLError):  # then it has no answers
            pynvml.nvmlInit()  # for good: where nobody else uses the driver, each first time takes seconds
    return Host(
        name=platform.node(),
        version=f"{VERSION}+{git_commit[:12]}" if git_commit else VERSION,
        cores=usable_cores(),
        processor=processor_name(),
        memory_bytes=min([psutil.virtual_memory().total, *memory_limits()]),
        gpus=tuple(gpus),
    )


def _load_of(gpu: Gpu) -> GpuLoad:
    def handle() -> Any:
        return pynvml.nvmlDeviceGetHandleByUUID(gpu.uuid)

    return GpuLoad(
        uuid=gpu.uuid,
        memory_used_bytes=_said(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle()).used),
        utilisation_percent=_said(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle()).gpu),
        temperature_celsius=_said(lambda: pynvml.nvmlDeviceGetTemperature(handle(), pynvml.NVML_TEMPERATURE_GPU)),
    )


def _said(ask: Callable[[], Any]) -> int | None:
    """Return an answer of the driver; None where this GPU, or a part of one, does not give it."""
    try:
        return int(ask())
    except pynvml.NVMLError:
        return None
