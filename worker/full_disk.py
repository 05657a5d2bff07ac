"""A full disk as what it is to a job: an end with a reason of its own, after which nothing half written is left."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.errors import DiskFull

_FULL = (errno.ENOSPC, errno.EDQUOT)  # of the file system, and of what one user may have of it


@contextmanager
def space_for(what: str, directory: Path) -> Iterator[None]:
    """Write `what` under the directory inside; raises DiskFull, which names both, where no space is left for it."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise DiskFull(
            f"No space is left under {directory} for {what}. What was recorded before stays: once there is space, "
            "a retry goes on from the last checkpoint."
        ) from error
