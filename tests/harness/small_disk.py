"""A disk of a few mebibytes that a test can fill, mounted where the product writes."""

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_PIECES = (2**16, 2**12, 1)


class SmallDisk:
    """A file system of its own in memory."""

    def __init__(self, path: Path) -> None:
        """Know where it is mounted."""
        self.path = path
        self._fillers: list[Path] = []

    def fill(self) -> None:
        """Leave no space for another byte."""
        filler = self.path / f"filler-{len(self._fillers)}"
        self._fillers.append(filler)
        with filler.open("wb", buffering=0) as file:
            for size in _PIECES:
                while _written(file.fileno(), size):
                    continue

    def fill_with_files(self) -> None:
        """Leave no space for another file or folder, however small."""
        while True:
            filler = self.path / f"filler-{len(self._fillers)}"
            try:
                filler.touch()
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    return
                raise
            self._fillers.append(filler)

    def free(self) -> None:
        """Give back what was taken."""
        while self._fillers:
            self._fillers.pop().unlink(missing_ok=True)


@contextmanager
def small_disk(path: Path, *, mebibytes: int = 4, files: int = 1_000) -> Iterator[SmallDisk]:
    """Mount one at the path, which needs root; the test is skipped, with the reason, where that is not allowed."""
    path.mkdir(parents=True, exist_ok=True)
    options = f"size={mebibytes}m,nr_inodes={files},mode=777"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def _written(descriptor: int, size: int) -> bool:
    try:
        return os.write(descriptor, bytes(size)) == size
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return False
        raise
