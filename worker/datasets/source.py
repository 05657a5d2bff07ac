"""What each source of a data set offers: a cheap fingerprint, and the samples to decode."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.errors import InvalidData


@dataclass(frozen=True)
class RawSplit:
    """One split before decoding: image files, or uint8 pixels (N, H, W) or (N, H, W, 3); int64 labels (N,)."""

    samples: Sequence[Path] | NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Decoded:
    """One split after decoding: uint8 images (N, C, H, W) and int64 labels (N,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


class Source(Protocol):
    """Where the samples of a data set come from."""

    @property
    def fingerprint(self) -> str:
        """A text that changes whenever the source's files do; found without opening any of them."""

    def read(self) -> tuple[RawSplit, RawSplit]:
        """Return the training and the test split, which may be empty; raises InvalidData naming a bad file."""


class SourceFile(NamedTuple):
    """What tells that a file of a source has changed; the size in bytes."""

    name: str
    size: int
    mtime_ns: int


def list_files(folder: Path) -> list[SourceFile]:
    """Return the files of `folder` by name, hidden ones left out; raises InvalidData for anything but a file."""
    files = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if not entry.is_file():
                raise InvalidData(f"{entry.path} is not a file: only files are expected in this folder.")
            facts = entry.stat()
            files.append(SourceFile(entry.name, facts.st_size, facts.st_mtime_ns))
    return sorted(files)


def stat_files(folder: Path, names: Iterable[str]) -> list[SourceFile]:
    """Return those of the named files that are in `folder`."""
    paths = [path for path in (folder / name for name in names) if path.exists()]
    return [SourceFile(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]


def listed(names: Sequence[str]) -> str:
    """Return the names as part of a sentence: all of them, or the first twenty and how many there are."""
    return ", ".join(names) if len(names) <= 20 else f"{', '.join(names[:20])}, ... ({len(names):,} in all)"


def fingerprint_of(folders: Iterable[tuple[str, list[SourceFile]]]) -> str:
    """Return a digest of the names, sizes and times of the files in each (folder name, files)."""
    digest = hashlib.sha256()
    for folder, files in folders:
        digest.update(repr((folder, [tuple(file) for file in files])).encode())
    return digest.hexdigest()
