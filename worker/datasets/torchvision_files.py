"""The data sets in torchvision's own file formats, placed by a person or fetched by torchvision's download."""

import http.client
import shutil
import socket
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.datasets import DATASETS, DatasetName
from models.errors import InvalidData
from worker.datasets.source import RawSplit, fingerprint_of, list_files

# Where torchvision keeps the files of each data set, below the root that it is given.
FOLDERS: dict[DatasetName, Path] = {
    "cifar10": Path("cifar-10-batches-py"),
    "mnist": Path("MNIST/raw"),
    "fashion_mnist": Path("FashionMNIST/raw"),
}
_SILENT_SERVER_SECONDS = 30.0


class TorchvisionFiles:
    """The files that torchvision reads for the data set `name` under its root, `folder`."""

    def __init__(self, name: DatasetName, folder: Path) -> None:
        """List the files, opening none."""
        self._name = name
        self._folder = folder
        self._files = list_files(folder / FOLDERS[name])

    @property
    def fingerprint(self) -> str:
        """A digest of the names, sizes and times of the files."""
        return fingerprint_of([(str(FOLDERS[self._name]), self._files)])

    def read(self) -> tuple[RawSplit, RawSplit]:
        """Return the splits; raises InvalidData naming the file that is missing, truncated or changed."""
        if self._name == "cifar10":
            return _read_cifar10(self._folder)
        raw = self._folder / FOLDERS[self._name]
        return _read_idx(self._name, raw, "train"), _read_idx(self._name, raw, "t10k")


def download(name: DatasetName, folder: Path) -> None:
    """Let torchvision download `name`, aside, and move it into `folder` when it is whole.

    Raises InvalidData where that fails, saying where the files can be placed by hand.
    """
    from torchvision import datasets

    dataset: Any = {"cifar10": datasets.CIFAR10, "mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST}[name]
    aside = folder / ".download"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        with _socket_timeout(_SILENT_SERVER_SECONDS):
            dataset(aside, download=True)
    except (RuntimeError, OSError, EOFError, http.client.HTTPException, tarfile.TarError, zlib.error) as error:
        raise not_placed(name, folder, f"its download failed ({' '.join(str(error).split())})") from error
    else:
        top = FOLDERS[name].parts[0]
        (aside / top).rename(folder / top)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def not_placed(name: DatasetName, folder: Path, why: str) -> InvalidData:
    """Return the error for a data set that is neither in `folder` nor to be downloaded, which `why` explains."""
    return InvalidData(
        f"The data set {name} is not in {folder}, and {why}: place its files there, either in torchvision's format "
        f"({folder / FOLDERS[name]}/*) or as images in {folder}/train/<class>/* and {folder}/test/<class>/*."
    )


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Give sockets a timeout: torchvision sets none, so a silent server would hold the job for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _read_cifar10(folder: Path) -> tuple[RawSplit, RawSplit]:
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    for file, md5 in [*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])]:
        path = folder / FOLDERS["cifar10"] / file
        if not path.exists():
            raise InvalidData(f"{path} is missing: CIFAR-10 in torchvision's format is incomplete without it.")
        if not check_integrity(path, md5):
            raise InvalidData(f"{path} is truncated or changed: its MD5 is not the one that torchvision lists ({md5}).")
    train, test = CIFAR10(folder, train=True), CIFAR10(folder, train=False)
    return _raw_split(train.data, train.targets), _raw_split(test.data, test.targets)


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
        raise InvalidData(f"{path} is missing: unpack it there if it came as a .gz file.")
    try:
        parsed: NDArray[Any] = read(path).numpy()
    except (AssertionError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InvalidData(f"{path} is truncated or not an idx file.") from error
    return parsed


def _raw_split(images: Any, labels: Any) -> RawSplit:
    return RawSplit(np.asarray(images, dtype=np.uint8), np.asarray(labels, dtype=np.int64))
