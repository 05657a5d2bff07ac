"""Decoded data sets on disk: written aside and renamed, checked by SHA-256, shared by all jobs of the host."""

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import time
import tokenize
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from models.dataset_spec import ImagesDataset, NamedDataset
from worker.datasets.hashing import array_digest, sample_digests
from worker.datasets.image_data import ImageData, Samples
from worker.datasets.source import Decoded

_FORMAT = 2  # to be raised whenever decoding or layout changes, so that older caches are not opened
_CONTENT = ("train_images", "train_labels", "test_images", "test_labels")
_PARTS = (*_CONTENT, "train_digests", "test_digests")
_FILES = ("meta.json", *(f"{part}.npy" for part in _PARTS))
# What JSON and numpy's parser of headers raise for damaged files.
_DAMAGE = (ValueError, KeyError, TypeError, SyntaxError, OverflowError, tokenize.TokenError)
_TRUST_SECONDS = 24 * 3600
Arrays = dict[str, NDArray[Any]]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cache:
    """The cached form of one data set, a directory for each state that its source was seen in.

    Opening needs no lock. Whoever publishes holds `locked()`, one lock per data set: two jobs decode once. `name` is
    that of the data set and `form` begins with it and tells its sizes, colours and orders of classes apart; both are
    safe in the name of a file.
    """

    directory: Path
    name: str
    form: str
    classes: tuple[str, ...]

    @classmethod
    def of(cls, spec: NamedDataset | ImagesDataset, directory: Path) -> "Cache":
        """Return the cache in `directory` for the images that `spec` asks for."""
        if isinstance(spec, NamedDataset):
            form = spec.name if spec.resize is None else f"{spec.name}-{spec.resize}"
            return cls(directory, spec.name, form, spec.class_names)
        readable = re.sub(r"[^A-Za-z0-9]", "_", spec.folder)[:40]
        name = f"images-{readable}-{_key(spec.folder)}"
        return cls(directory, name, f"{name}-{spec.resize}-{spec.colors}-{_key(spec.class_names)}", spec.class_names)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the data set's lock, waiting for it; the kernel releases it when a process dies."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / f"{self.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def open(self, fingerprint: str) -> ImageData | None:
        """Return what was published for this state of the source; None where nothing was, or where it is damaged.

        The checksums are computed unless they were found right less than a day ago and no file has been touched since.
        """
        entry = self._entry(fingerprint)
        try:
            digests = json.loads((entry / "meta.json").read_bytes())["sha256"]
            arrays: Arrays = {part: open_memmap(entry / f"{part}.npy", mode="r") for part in _PARTS}
            sound = _verified_lately(entry) or _verify(entry, arrays, digests)
        except FileNotFoundError:
            return None
        except _DAMAGE:
            sound = False
        if not sound:
            _log.warning("The data set cache %s is damaged; it is built again.", entry)
            return None
        return self._image_data(arrays, digests)

    def publish(self, fingerprint: str, train: Decoded, test: Decoded) -> None:
        """Store the decoded splits for this state of the source, in place of those for earlier states.

        Needs `locked()`. Jobs that still map an earlier state keep it: its files are unlinked, not changed.
        """
        for leftover in self.directory.glob(f".tmp-{self.name}-*"):  # of a writer that was killed
            shutil.rmtree(leftover)
        aside = self._aside()
        try:
            _write_entry(aside, self.classes, train, test)
        except OSError:
            shutil.rmtree(aside, ignore_errors=True)  # of a full disk, others need what it took
            raise
        for earlier in self.directory.iterdir():
            if re.fullmatch(rf"{self.form}-[0-9a-f]{{16}}", earlier.name):
                shutil.rmtree(earlier.rename(self._aside()))
        aside.rename(self._entry(fingerprint))
        _sync_directory(self.directory)

    def _aside(self) -> Path:
        return self.directory / f".tmp-{self.name}-{uuid.uuid4().hex}"

    def _entry(self, fingerprint: str) -> Path:
        return self.directory / f"{self.form}-{_key((_FORMAT, self.classes, fingerprint))}"

    def _image_data(self, arrays: Arrays, digests: dict[str, str]) -> ImageData:
        train, test = (
            Samples(
                arrays[f"{split}_images"], np.array(arrays[f"{split}_labels"]), np.array(arrays[f"{split}_digests"])
            )
            for split in ("train", "test")
        )
        content = json.dumps([self.classes, [digests[part] for part in _CONTENT]])
        return ImageData(train, test, hashlib.sha256(content.encode()).hexdigest())


def _key(content: object) -> str:
    """Return 16 hexadecimal digits that stand for `content` in the name of a file."""
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def _write_entry(directory: Path, classes: tuple[str, ...], train: Decoded, test: Decoded) -> None:
    directory.mkdir()
    arrays: Arrays = {}
    for split, decoded in (("train", train), ("test", test)):
        arrays |= {
            f"{split}_images": decoded.images,
            f"{split}_labels": decoded.labels,
            f"{split}_digests": sample_digests(decoded.images),
        }
    for part, array in arrays.items():
        rows = np.ascontiguousarray(array)
        with _synced(directory / f"{part}.npy") as file:
            npy.write_array_header_1_0(file, npy.header_data_from_array_1_0(rows))
            file.write(rows.data)  # np.save does not say why it could not write
    digests = {part: array_digest(array) for part, array in arrays.items()}
    with _synced(directory / "meta.json") as file:
        file.write(json.dumps({"classes": classes, "sha256": digests}, indent=1).encode())
    _sync_directory(directory)


@contextmanager
def _synced(path: Path) -> Iterator[BinaryIO]:
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _verify(entry: Path, arrays: Arrays, digests: dict[str, str]) -> bool:
    """Tell whether each array has the digest it was published with, and note it where all have."""
    identity, newest_change_ns = _identity(entry)
    if any(array_digest(arrays[part]) != digests[part] for part in _PARTS):
        return False
    # A file can change twice within one tick of the file system's clock: what is that young is checked again.
    if time.time_ns() - newest_change_ns > 1_000_000_000:
        with suppress(OSError):  # a cache that may not be written to is verified at every opening
            (entry / "verified").write_text(identity)
    return True


def _verified_lately(entry: Path) -> bool:
    note = entry / "verified"
    try:
        return time.time() - note.stat().st_mtime < _TRUST_SECONDS and note.read_text() == _identity(entry)[0]
    except (FileNotFoundError, UnicodeDecodeError):
        return False


def _identity(entry: Path) -> tuple[str, int]:
    """Return what no write to the entry's files leaves as it was, and the time of the latest change in ns."""
    stats = [(entry / file).stat() for file in _FILES]
    identity = json.dumps([(stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for stat in stats])
    return identity, max(stat.st_ctime_ns for stat in stats)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
