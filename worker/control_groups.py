"""The control groups (version 2) around this process, a container's for example: what memory they allow it."""

from collections.abc import Iterator
from pathlib import Path

_MOUNTED = Path("/sys/fs/cgroup")
_OURS = Path("/proc/self/cgroup")


def memory_limits(groups: Path = _MOUNTED, process: Path = _OURS) -> list[int]:
    """Return the limit in bytes of each limited control group around this process.

    `groups` is where they are mounted, `process` says which is ours.
    """
    return [limit for group in _around(groups, process) if (limit := _limit_of(group)) is not None]


def free_in_control_groups(groups: Path = _MOUNTED, process: Path = _OURS) -> list[int]:
    """Return the bytes left under the limit of each; cached files that can be dropped count as free."""
    return [left for group in _around(groups, process) for left in _left_in(group)]


def _around(groups: Path, process: Path) -> Iterator[Path]:
    ours = next((line[3:] for line in _lines(process) if line.startswith("0::")), "/")
    folder = groups / ours.lstrip("/")
    return (group for group in (folder, *folder.parents) if groups in (group, *group.parents))


def _limit_of(group: Path) -> int | None:
    limit = _lines(group / "memory.max")
    return int(limit[0]) if limit and limit[0] != "max" else None


def _left_in(group: Path) -> list[int]:
    limit, used = _limit_of(group), _lines(group / "memory.current")
    if limit is None or not used:
        return []
    droppable = (int(line.split()[1]) for line in _lines(group / "memory.stat") if line.startswith("inactive_file "))
    return [max(0, limit - int(used[0]) + sum(droppable))]


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.is_file() else []
