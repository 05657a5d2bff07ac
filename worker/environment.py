"""What a result says of the machine and the software it ran on."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import psutil
import torch

from models.result import Environment
from worker.processor import processor_name


def describe_environment(device: torch.device, ranks: int, git_commit: str | None) -> Environment:
    """Describe this machine as the runner sees it, one of so many ranks with such a device each."""
    cuda = device.type == "cuda"
    return Environment(
        processor=processor_name(),
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        memory_bytes=psutil.virtual_memory().total,
        device=device.type,
        gpus=ranks if cuda else 0,
        gpu=torch.cuda.get_device_name(device) if cuda else None,
        gpu_memory_bytes=torch.cuda.get_device_properties(device).total_memory if cuda else None,
        system=platform.platform(),
        python=platform.python_version(),
        torch=torch.__version__,
        torchvision=_installed("torchvision"),
        cuda=torch.version.cuda,
        git_commit=git_commit,
    )


def _installed(package: str) -> str | None:
    # Asked of the package's metadata: importing torchvision would cost every job a second.
    try:
        return version(package)
    except PackageNotFoundError:
        return None
