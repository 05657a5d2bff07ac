"""What the processor of this machine is called."""

import platform
from pathlib import Path


def processor_name() -> str:
    """Return the name as Linux says it, else as Python does."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
