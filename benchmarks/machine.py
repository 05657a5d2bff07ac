"""What a page says of the machine that was measured."""

import os
import platform

import psutil

from worker.processor import processor_name

_GIB = 2**30


def machine() -> dict[str, str]:
    """Return facts by their names."""
    return {
        "processor": f"{processor_name()}, {os.cpu_count() or 1} cores",
        "memory": f"{psutil.virtual_memory().total / _GIB:.0f} GiB",
        "system": platform.system(),
    }
