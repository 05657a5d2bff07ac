"""Memory: what is free on a device, what of it the data of a job may take, and what was taken at most."""

import resource
import sys

import psutil
import torch

from models.demand import CUDA_CONTEXT_BYTES, PEAK_MARGIN
from worker.control_groups import free_in_control_groups

_DATA_SHARE = 0.5  # of what is free; the rest is for the network, and for what others take meanwhile


def free_bytes(device: torch.device) -> int:
    """Return how many bytes could be had on the device now."""
    if device.type != "cuda":
        return min([int(psutil.virtual_memory().available), *free_in_control_groups()])
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + cached


def data_limit(device: torch.device, slots: int) -> int:
    """Return how many bytes of data a job may put on the device, which so many slots of its worker share."""
    return int(free_bytes(device) * _DATA_SHARE) // slots


def gpu_data_limit(device: torch.device, granted_bytes: int | None, *, measured: bool) -> int:
    """Return how many bytes of data a job may put on its GPU, of which it was granted so many (None: all of it).

    `measured` says that the grant is the peak of like jobs with its margin: that held the data, if the GPU did.
    """
    if granted_bytes is None:
        return data_limit(device, slots=1)
    return int(_bytes_for_tensors(granted_bytes) * (1 / PEAK_MARGIN if measured else _DATA_SHARE))


def _bytes_for_tensors(granted_bytes: int) -> int:
    """Return what is left for tensors of so many bytes of a GPU, once CUDA has its own."""
    return max(0, granted_bytes - CUDA_CONTEXT_BYTES)


def bound_tensors(granted_bytes: int) -> None:
    """Make torch raise OutOfMemoryError where this process would take more of its GPU than it was granted."""
    total = torch.cuda.get_device_properties().total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, _bytes_for_tensors(granted_bytes) / total))


def peak_bytes() -> int:
    """Return the most memory of the host that this process ever had at once, its share of mapped files included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def peak_gpu_bytes(device: torch.device) -> int | None:
    """Return the most memory that tensors ever had on the GPU at once; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def peak_reserved_bytes() -> int:
    """Return the most that torch ever held of one of this process's GPUs, for tensors or to have it at hand."""
    return max(torch.cuda.max_memory_reserved(index) for index in range(torch.cuda.device_count()))
