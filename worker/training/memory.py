"""Memory: what is free on a device, what of it the data of a job may take, and what was taken at most."""

import resource
import sys

import psutil
import torch

_DATA_SHARE = 0.5  # of what is free; the rest is for the network, and for what others take meanwhile


def free_bytes(device: torch.device) -> int:
    """Return how many bytes could be had on the device now."""
    if device.type != "cuda":
        return int(psutil.virtual_memory().available)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + cached


def data_limit(device: torch.device, slots: int) -> int:
    """Return how many bytes of data a job may put on the device, beside the other slots of its worker."""
    return int(free_bytes(device) * _DATA_SHARE) // slots


def peak_bytes() -> int:
    """Return the most memory of the host that this process ever had at once, its share of mapped files included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def peak_gpu_bytes(device: torch.device) -> int | None:
    """Return the most memory that tensors ever had on the GPU at once; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
