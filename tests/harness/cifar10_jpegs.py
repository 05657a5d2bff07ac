"""The JPEG tree of CIFAR-10, for the machines that have it."""

import tarfile
from collections import Counter
from pathlib import Path

import pytest

_ARCHIVE = Path(__file__).parents[3] / "shared" / "data" / "cifar10-jpeg.tar.xz"
_FOLDERS = 20  # ten classes to be trained on, and to be tested on

needs_jpegs = pytest.mark.skipif(not _ARCHIVE.exists(), reason="the JPEG tree of CIFAR-10 is not on this machine")


def unpack(root: Path, *, of_each: int) -> None:
    """Place the first images of each class and part below `root`, as train/<class>/* and test/<class>/*."""
    taken: Counter[Path] = Counter()
    with tarfile.open(_ARCHIVE) as archive:
        for member in archive:
            folder = Path(member.name).parent
            if member.isfile() and taken[folder] < of_each:
                archive.extract(member, root, filter="data")
                taken[folder] += 1
            if taken.total() == _FOLDERS * of_each:
                return
