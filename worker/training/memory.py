"""Memory: what is free on a device, what of it the data of a job may take, and what was taken at most."""

import resource
import sys
from pathlib import Path

import psutil
import torch

_CONTROL_GROUPS = Path("/sys/fs/cgroup")
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


def free_in_control_groups(groups: Path = _CONTROL_GROUPS, process: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Return the bytes left under the limit of each control group (version 2) around this process; a container is one.

    `groups` is where they are mounted, `process` says which is ours. Cached files that can be dropped count as free.
    """
    ours = next((line[3:] for line in _lines(process) if line.startswith("0::")), "/")
    folder = groups / ours.lstrip("/")
    return [
        left for group in (folder, *folder.parents) if groups in (group, *group.parents) for left in _left_in(group)
    ]


def _left_in(group: Path) -> list[int]:
    limit, used = _lines(group / "memory.max"), _lines(group / "memory.current")
    if not limit or not used or limit[0] == "max":
        return []
    droppable = (int(line.split()[1]) for line in _lines(group / "memory.stat") if line.startswith("inactive_file "))
    return [max(0, int(limit[0]) - int(used[0]) + sum(droppable))]


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.is_file() else []


def peak_bytes() -> int:
    """Return the most memory of the host that this process ever had at once, its share of mapped files included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def peak_gpu_bytes(device: torch.device) -> int | None:
    """Return the most memory that tensors ever had on the GPU at once; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
