"""The GPUs of this host, asked of NVIDIA's management library: no torch, no CUDA context."""

from dataclasses import dataclass

import psutil
import pynvml
import structlog

log = structlog.get_logger(__name__)

_MINIMUM_CAPABILITY = (7, 5)  # the oldest that the PyPI wheels of torch are compiled for


@dataclass(frozen=True)
class Gpu:
    """One GPU by the name that CUDA_VISIBLE_DEVICES understands."""

    uuid: str
    name: str
    capability: tuple[int, int]
    memory_bytes: int  # that programs may have: all but what the driver keeps for itself


def usable_gpus() -> list[Gpu]:
    """Return the GPUs that torch can use here; say in the log which are left out and why."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        log.info("no_gpu", detail=str(error))
        return []
    try:
        log.info("gpu_driver", version=pynvml.nvmlSystemGetDriverVersion())
        gpus = [_describe(index) for index in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()
    for gpu in gpus:
        if gpu.capability < _MINIMUM_CAPABILITY:
            log.warning("gpu_too_old", gpu=gpu.name, capability=gpu.capability, needed=_MINIMUM_CAPABILITY)
    return [gpu for gpu in gpus if gpu.capability >= _MINIMUM_CAPABILITY]


def _describe(index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        name=pynvml.nvmlDeviceGetName(handle),
        capability=(major, minor),
        memory_bytes=_memory_of(handle),
    )


def _memory_of(handle: object) -> int:
    # What other programs have now is not taken off: it changes, and a killed worker's runners may be among them.
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    except pynvml.NVMLError_NotSupported:  # its memory is the host's
        return int(psutil.virtual_memory().total)
    return int(memory.total - memory.reserved)
