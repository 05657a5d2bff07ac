"""The data sets in torchvision's own file formats: placed by a person, packed or not, or fetched by its download."""

import http.client
import shutil
import socket
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.datasets import DATASETS, DatasetName
from models.errors import InvalidData
from worker.datasets.source import RawSplit, fingerprint_of, stat_files
from worker.datasets.unpacking import unpack


@dataclass(frozen=True)
class _Layout:
    """What torchvision's class `dataset` reads: `files` in `folder`, below the root that it is given."""

    dataset: str
    folder: Path
    files: tuple[str, ...]

    @property
    def place(self) -> Path:
        """What stands below the root as soon as the files are there."""
        return Path(self.folder.parts[0]) if self.folder.parts else Path(self.files[0])


_IDX_FILES = tuple(f"{split}-{part}-ubyte" for split in ("train", "t10k") for part in ("images-idx3", "labels-idx1"))
_LAYOUTS: dict[DatasetName, _Layout] = {
    "cifar10": _Layout(
        "CIFAR10",
        Path("cifar-10-batches-py"),
        (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"),
    ),
    "cifar100": _Layout("CIFAR100", Path("cifar-100-python"), ("train", "test", "meta")),
    "mnist": _Layout("MNIST", Path("MNIST/raw"), _IDX_FILES),
    "fashion_mnist": _Layout("FashionMNIST", Path("FashionMNIST/raw"), _IDX_FILES),
    "svhn": _Layout("SVHN", Path(), ("train_32x32.mat", "test_32x32.mat")),
}
_SILENT_SERVER_SECONDS = 30.0


class TorchvisionFiles:
    """The files that torchvision reads for the data set `name` under its root, `folder`."""

    def __init__(self, name: DatasetName, folder: Path) -> None:
        """List the files, opening none."""
        self._name = name
        self._folder = folder
        self._files = stat_files(folder / _LAYOUTS[name].folder, _LAYOUTS[name].files)

    @property
    def fingerprint(self) -> str:
        """A digest of the names, sizes and times of the files."""
        return fingerprint_of([(str(_LAYOUTS[self._name].folder), self._files)])

    def read(self) -> tuple[RawSplit, RawSplit]:
        """Return the splits; raises InvalidData naming the file that is missing, truncated or changed."""
        folder = self._folder / _LAYOUTS[self._name].folder
        if self._name in ("mnist", "fashion_mnist"):
            return _read_idx(self._name, folder, "train"), _read_idx(self._name, folder, "t10k")
        _require_listed_md5s(self._name, folder)
        return _read_svhn(self._folder) if self._name == "svhn" else _read_cifar(self._name, self._folder)


def place_of(name: DatasetName, folder: Path) -> Path:
    """Return what exists in `folder` as soon as the data set `name` stands there in torchvision's format."""
    return folder / _LAYOUTS[name].place


def unpack_files(name: DatasetName, folder: Path) -> None:
    """Unpack what was placed in `folder` as it is published, unless it is unpacked already."""
    inside = folder / _LAYOUTS[name].folder
    for file in DATASETS[name].files:
        packed = [path for path in (folder / file.name, inside / file.name) if path.is_file()]
        target = inside if file.name.endswith(".tar.gz") else inside / Path(file.name).stem
        if packed and file.name.endswith(".gz") and not target.exists():
            unpack(packed[0], file.md5, target)


def download_files(name: DatasetName, folder: Path) -> None:
    """Let torchvision download `name`, aside, and move it into `folder` when it is whole.

    Raises InvalidData where that fails, saying where the files can be placed by hand.
    """
    aside = folder / ".download"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        with _socket_timeout(_SILENT_SERVER_SECONDS):
            if name == "svhn":
                _torchvision(name)(aside, split="test", download=True)
                _torchvision(name)(aside, split="train", download=True)
            else:
                _torchvision(name)(aside, download=True)
    except (RuntimeError, OSError, EOFError, http.client.HTTPException, tarfile.TarError, zlib.error) as error:
        raise not_placed(name, folder, f"its download failed ({' '.join(str(error).split())})") from error
    else:
        if name == "svhn":  # the file that tells that the data set is there comes last
            (aside / "test_32x32.mat").rename(folder / "test_32x32.mat")
        (aside / _LAYOUTS[name].place).rename(place_of(name, folder))
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def not_placed(name: DatasetName, folder: Path, why: str) -> InvalidData:
    """Return the error for a data set that is neither in `folder` nor to be downloaded, which `why` explains."""
    published = ", ".join(file.name for file in DATASETS[name].files)
    return InvalidData(
        f"The data set {name} is not in {folder}, and {why}: place its files there, as published ({published}), "
        f"in torchvision's format ({folder / _LAYOUTS[name].folder}/*) or as images in {folder}/train/<class>/* and "
        f"{folder}/test/<class>/*."
    )


def _torchvision(name: DatasetName) -> Any:
    from torchvision import datasets

    return getattr(datasets, _LAYOUTS[name].dataset)


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Give sockets a timeout: torchvision sets none, so a silent server would hold the job for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _require_listed_md5s(name: DatasetName, folder: Path) -> None:
    """Look at files before they are parsed: torchvision unpickles CIFAR's."""
    from torchvision.datasets.utils import check_integrity

    for file, md5 in _listed_md5s(name):
        path = folder / file
        if not path.exists():
            raise InvalidData(f"{path} is missing: {name} in torchvision's format is incomplete without it.")
        if not check_integrity(path, md5):
            raise InvalidData(f"{path} is truncated or changed: its MD5 is not the one that torchvision lists ({md5}).")


def _listed_md5s(name: DatasetName) -> list[tuple[str, str]]:
    dataset = _torchvision(name)
    if name == "svhn":
        return [(file, md5) for _, file, md5 in (dataset.split_list[split] for split in ("train", "test"))]
    return [*dataset.train_list, *dataset.test_list, (dataset.meta["filename"], dataset.meta["md5"])]


def _read_cifar(name: DatasetName, folder: Path) -> tuple[RawSplit, RawSplit]:
    train, test = (_torchvision(name)(folder, train=train) for train in (True, False))
    return _raw_split(train.data, train.targets), _raw_split(test.data, test.targets)


def _read_svhn(folder: Path) -> tuple[RawSplit, RawSplit]:
    # torchvision has made the label 10 that the files give to the digit 0 a 0, and puts the channels first.
    train, test = (_torchvision("svhn")(folder, split=split) for split in ("train", "test"))
    return (
        _raw_split(train.data.transpose(0, 2, 3, 1), train.labels),
        _raw_split(test.data.transpose(0, 2, 3, 1), test.labels),
    )


def _read_idx(name: DatasetName, raw: Path, prefix: str) -> RawSplit:
    from torchvision.datasets.mnist import read_image_file, read_label_file

    images_path, labels_path = raw / f"{prefix}-images-idx3-ubyte", raw / f"{prefix}-labels-idx1-ubyte"
    images, labels = _parse_idx(images_path, read_image_file), _parse_idx(labels_path, read_label_file)
    facts = DATASETS[name]
    if images.shape[1:] != facts.shape[1:]:
        raise InvalidData(f"{images_path} holds images of {images.shape[1:]} pixels, {name} has {facts.shape[1:]}.")
    if len(images) != len(labels):
        raise InvalidData(f"{labels_path} has {len(labels)} labels for the {len(images)} images of {images_path.name}.")
    counts = np.bincount(labels, minlength=len(facts.classes))
    if len(counts) > len(facts.classes):
        raise InvalidData(f"{labels_path} has the label {len(counts) - 1}, {name} has {len(facts.classes)} classes.")
    if not counts.all():
        raise InvalidData(f"{labels_path} has no image of the class {facts.classes[int(np.argmin(counts))]}.")
    return _raw_split(images, labels)


def _parse_idx(path: Path, read: Any) -> NDArray[Any]:
    if not path.exists():
        raise InvalidData(f"{path} is missing: place it there, or {path.name}.gz as it is published.")
    try:
        parsed: NDArray[Any] = read(path).numpy()
    except (AssertionError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InvalidData(f"{path} is truncated or not an idx file.") from error
    return parsed


def _raw_split(images: Any, labels: Any) -> RawSplit:
    return RawSplit(np.asarray(images, dtype=np.uint8), np.asarray(labels, dtype=np.int64))
