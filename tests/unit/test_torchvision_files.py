"""Tests of reading data sets from torchvision's own files, and of its download."""

import dataclasses
import functools
import gzip
import hashlib
import http.server
import pickle
import re
import shutil
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io  # type: ignore[import-untyped]
import torchvision
from PIL import Image

from models.dataset_spec import NamedDataset
from models.datasets import DATASETS, DatasetName, PublishedFile
from models.errors import InvalidData
from worker.datasets.image_data import ImageData
from worker.datasets.loading import load_images


def load(name: DatasetName, *, root: Path, resize: int | None = None, **options: Any) -> ImageData:
    return load_images(NamedDataset(name=name, resize=resize), root=root, **options)


def refusal_of(name: DatasetName, root: Path, *, cached: bool = False) -> str:
    """Return the sentence that loading is refused with; nothing may have been cached, unless it was before."""
    with pytest.raises(InvalidData) as refusal:
        load(name, root=root, download=False)
    assert bool(list(root.glob(f".cache/*{name}-*"))) == cached
    return str(refusal.value)


def write_idx(path: Path, array: np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes())


def plant_idx(root: Path) -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(1)
    arrays = {}
    for prefix, count in (("train", 40), ("t10k", 20)):
        arrays[f"{prefix}-images-idx3-ubyte"] = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{prefix}-labels-idx1-ubyte"] = np.arange(count, dtype=np.uint8) % 10
    for name, array in arrays.items():
        write_idx(root / "mnist/MNIST/raw" / name, array)
    return arrays


def test_idx_files_are_read_as_torchvision_reads_them(tmp_path: Path) -> None:
    arrays = plant_idx(tmp_path)
    data = load("mnist", root=tmp_path, download=False)
    for split, prefix in ((data.train, "train"), (data.test, "t10k")):
        assert np.array_equal(split.images[:, 0], arrays[f"{prefix}-images-idx3-ubyte"])
        assert np.array_equal(split.labels, arrays[f"{prefix}-labels-idx1-ubyte"])


def test_idx_images_are_resized_as_images_of_a_tree_are(tmp_path: Path) -> None:
    arrays = plant_idx(tmp_path)
    data = load("mnist", resize=32, root=tmp_path, download=False)
    first = Image.fromarray(arrays["train-images-idx3-ubyte"][0]).resize((32, 32), Image.Resampling.BILINEAR)
    assert np.array_equal(data.train.images[0, 0], np.asarray(first))


IDX_FAULTS: list[tuple[str, Callable[[Path], Any], str]] = [
    ("train-images-idx3-ubyte", lambda p: p.write_bytes(p.read_bytes()[:-1]), "{p} is truncated or not an idx file."),
    ("t10k-labels-idx1-ubyte", lambda p: p.write_bytes(p.read_bytes()[:-1]), "{p} is truncated or not an idx file."),
    ("t10k-labels-idx1-ubyte", lambda p: p.write_bytes(b""), "{p} is truncated or not an idx file."),
    ("train-images-idx3-ubyte", lambda p: p.write_bytes(gzip.compress(p.read_bytes())), "{p} is truncated or not .*"),
    (
        "t10k-images-idx3-ubyte",
        lambda p: p.unlink(),
        "{p} is missing: place it there, or t10k-images-idx3-ubyte.gz as it is published.",
    ),
    (
        "train-images-idx3-ubyte",
        lambda p: write_idx(p, np.zeros((40, 27, 28), np.uint8)),
        r"{p} holds images of \(27, 28\) pixels, mnist has \(28, 28\).",
    ),
    (
        "train-labels-idx1-ubyte",
        lambda p: write_idx(p, np.arange(39, dtype=np.uint8) % 10),
        "{p} has 39 labels for the 40 images of train-images-idx3-ubyte.",
    ),
    (
        "train-labels-idx1-ubyte",
        lambda p: write_idx(p, np.arange(40, dtype=np.uint8) % 11),
        "{p} has the label 10, mnist has 10 classes.",
    ),
    (
        "t10k-labels-idx1-ubyte",
        lambda p: write_idx(p, np.arange(20, dtype=np.uint8) % 9),
        "{p} has no image of the class 9.",
    ),
]


@pytest.mark.parametrize(("file", "break_file", "sentence"), IDX_FAULTS)
def test_a_bad_idx_file_is_named(tmp_path: Path, file: str, break_file: Callable[[Path], Any], sentence: str) -> None:
    plant_idx(tmp_path)
    path = tmp_path / "mnist/MNIST/raw" / file
    break_file(path)
    assert re.fullmatch(sentence.replace("{p}", re.escape(str(path))), refusal_of("mnist", tmp_path))


def plant_batches(folder: Path) -> np.ndarray[Any, Any]:
    """Write CIFAR-10's seven files, ten images to a batch, and return the pixels of the test batch."""
    random = np.random.default_rng(2)
    folder.mkdir(parents=True)
    for file in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        pixels = random.integers(0, 256, (10, 3072), dtype=np.uint8)
        (folder / file).write_bytes(pickle.dumps({"data": pixels, "labels": list(range(10))}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(DATASETS["cifar10"].classes)}))
    return pixels.reshape(10, 3, 32, 32)


def plant_cifar100(folder: Path) -> np.ndarray[Any, Any]:
    """Write CIFAR-100's three files, two images to a class, and return the pixels of the test file."""
    random = np.random.default_rng(3)
    folder.mkdir(parents=True)
    for file in ("train", "test"):
        pixels = random.integers(0, 256, (200, 3072), dtype=np.uint8)
        content = {"data": pixels, "fine_labels": [*range(100)] * 2, "coarse_labels": [0] * 200}
        (folder / file).write_bytes(pickle.dumps(content))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": list(DATASETS["cifar100"].classes)}))
    return pixels.reshape(200, 3, 32, 32)


def plant_svhn(folder: Path) -> np.ndarray[Any, Any]:
    """Write SVHN's two files, whose label of the digit 0 is 10, and return the test images, (N, H, W, C)."""
    random = np.random.default_rng(4)
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("train_32x32.mat", "test_32x32.mat"):
        pixels = random.integers(0, 256, (32, 32, 3, 20), dtype=np.uint8)
        labels = np.array([[label] for label in range(1, 11)] * 2, dtype=np.uint8)
        scipy.io.savemat(folder / file, {"X": pixels, "y": labels})
    return pixels.transpose(3, 0, 1, 2)


def md5_of(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def accept_batches(folder: Path, monkeypatch: pytest.MonkeyPatch, dataset: str = "CIFAR10") -> None:
    """Let torchvision expect the MD5s that the files in `folder` have; all of its code runs as it is."""
    cifar = getattr(torchvision.datasets, dataset)
    for listed in ("train_list", "test_list"):
        files = [name for name, _ in getattr(cifar, listed)]
        monkeypatch.setattr(cifar, listed, [[name, md5_of(folder / name)] for name in files])
    monkeypatch.setattr(cifar, "meta", cifar.meta | {"md5": md5_of(folder / cifar.meta["filename"])})


def accept_svhn(folder: Path, monkeypatch: pytest.MonkeyPatch, address: str = "http://127.0.0.1:9") -> None:
    """Let torchvision expect SVHN's files as they are in `folder`, and find them at `address`."""
    lists = {
        split: [f"{address}/{split}_32x32.mat", f"{split}_32x32.mat", md5_of(folder / f"{split}_32x32.mat")]
        for split in ("train", "test")
    }
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", lists)


def publish_with(name: DatasetName, archives: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the registry list the MD5s that the archives have."""
    files = tuple(PublishedFile(archive.name, md5_of(archive)) for archive in archives)
    monkeypatch.setitem(DATASETS, name, dataclasses.replace(DATASETS[name], files=files))


def test_cifar_batches_are_read_by_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar10/cifar-10-batches-py"
    pixels = plant_batches(folder)
    accept_batches(folder, monkeypatch)
    data = load("cifar10", root=tmp_path, download=False)
    assert data.train.images.shape == (50, 3, 32, 32)
    assert np.array_equal(data.test.images, pixels)
    assert data.test.labels.tolist() == list(range(10))


def test_a_cifar_batch_with_another_md5_is_named_and_never_unpickled(tmp_path: Path) -> None:
    folder = tmp_path / "cifar10/cifar-10-batches-py"
    plant_batches(folder)
    assert re.fullmatch(
        rf"{folder}/data_batch_1 is truncated or changed: its MD5 is not the one that torchvision lists \(c99c.*\).",
        refusal_of("cifar10", tmp_path),
    )


@pytest.mark.parametrize("file", ["data_batch_5", "batches.meta"])
def test_a_missing_cifar_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    folder = tmp_path / "cifar10/cifar-10-batches-py"
    plant_batches(folder)
    accept_batches(folder, monkeypatch)
    (folder / file).unlink()
    assert refusal_of("cifar10", tmp_path).startswith(f"{folder / file} is missing: ")


def test_cifar100_has_the_fine_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar100/cifar-100-python"
    pixels = plant_cifar100(folder)
    accept_batches(folder, monkeypatch, "CIFAR100")
    data = load("cifar100", root=tmp_path, download=False)
    assert data.train.images.shape == (200, 3, 32, 32)
    assert np.array_equal(data.test.images, pixels)
    assert data.test.labels.tolist() == [*range(100)] * 2
    (folder / "meta").write_bytes(b"changed")
    assert refusal_of("cifar100", tmp_path, cached=True).startswith(f"{folder}/meta is truncated or changed: its MD5")


def test_the_label_ten_of_svhn_is_the_digit_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "svhn"
    pixels = plant_svhn(folder)
    accept_svhn(folder, monkeypatch)
    data = load("svhn", root=tmp_path, download=False)
    assert data.test.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0] * 2
    assert np.array_equal(data.test.images, pixels.transpose(0, 3, 1, 2))
    resized = load("svhn", resize=8, root=tmp_path, download=False)
    first = Image.fromarray(pixels[0]).resize((8, 8), Image.Resampling.BILINEAR)
    assert np.array_equal(resized.test.images[0], np.asarray(first).transpose(2, 0, 1))


def test_svhn_files_are_looked_at_before_they_are_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "svhn"
    plant_svhn(folder)
    assert re.fullmatch(
        rf"{folder}/train_32x32.mat is truncated or changed: its MD5 is not the one that torchvision lists \(e26d.*\).",
        refusal_of("svhn", tmp_path),
    )
    accept_svhn(folder, monkeypatch)
    (folder / "test_32x32.mat").unlink()
    assert refusal_of("svhn", tmp_path).startswith(f"{folder}/test_32x32.mat is missing: ")
    (folder / "train").mkdir()
    assert refusal_of("svhn", tmp_path).endswith("hold svhn in two forms: keep one of them.")


@pytest.fixture
def packed_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-10 as it is published, placed by hand; returns the archive."""
    made = tmp_path / "made/cifar-10-batches-py"
    plant_batches(made)
    accept_batches(made, monkeypatch)
    archive = tmp_path / "cifar10/cifar-10-python.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(made, made.name)
    publish_with("cifar10", [archive], monkeypatch)
    return archive


def test_an_archive_that_was_placed_is_unpacked_once(tmp_path: Path, packed_cifar: Path) -> None:
    (packed_cifar.parent / ".unpacking-cifar-10-batches-py/cifar-10-batches-py").mkdir(parents=True)  # of a killed job
    assert len(load("cifar10", root=tmp_path, download=False).train.labels) == 50
    assert sorted(path.name for path in packed_cifar.parent.iterdir()) == ["cifar-10-batches-py", packed_cifar.name]
    packed_cifar.write_bytes(b"never looked at again")
    assert len(load("cifar10", resize=16, root=tmp_path, download=False).train.labels) == 50


def test_an_archive_with_another_md5_is_named_and_not_unpacked(tmp_path: Path, packed_cifar: Path) -> None:
    packed_cifar.write_bytes(packed_cifar.read_bytes()[:-9])
    assert re.fullmatch(
        rf"{packed_cifar} is truncated or changed: its MD5 is not the published one \([0-9a-f]{{32}}\).",
        refusal_of("cifar10", tmp_path),
    )
    assert list(packed_cifar.parent.iterdir()) == [packed_cifar]


def test_an_archive_beside_a_tree_of_images_is_left_alone(tmp_path: Path, packed_cifar: Path) -> None:
    (packed_cifar.parent / "train/cat").mkdir(parents=True)
    assert "/train/airplane is missing" in refusal_of("cifar10", tmp_path)
    assert sorted(path.name for path in packed_cifar.parent.iterdir()) == [packed_cifar.name, "train"]


@pytest.mark.parametrize("place", ["mnist", "mnist/MNIST/raw"])
def test_gzipped_idx_files_are_unpacked_where_torchvision_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    arrays = plant_idx(tmp_path)
    raw = tmp_path / "mnist/MNIST/raw"
    archives = []
    for name in arrays:
        archives.append(tmp_path / place / f"{name}.gz")
        archives[-1].write_bytes(gzip.compress((raw / name).read_bytes()))
    for name in list(arrays)[1:]:  # one is unpacked already
        (raw / name).unlink()
    if place == "mnist":
        (raw / next(iter(arrays))).unlink()
        shutil.rmtree(raw.parent)
    publish_with("mnist", archives, monkeypatch)
    data = load("mnist", root=tmp_path, download=False)
    assert np.array_equal(data.train.images[:, 0], arrays["train-images-idx3-ubyte"])
    assert sorted(path.name for path in raw.iterdir() if not path.name.endswith(".gz")) == sorted(arrays)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Serve a directory over HTTP: its address and the directory."""
    served = tmp_path / "served"
    served.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}", served
        httpd.shutdown()
        thread.join()


@pytest.fixture
def cifar_from_server(server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let torchvision download CIFAR-10 from the local server; returns the archive there."""
    address, served = server
    plant_batches(tmp_path / "made/cifar-10-batches-py")
    accept_batches(tmp_path / "made/cifar-10-batches-py", monkeypatch)
    archive = served / str(torchvision.datasets.CIFAR10.filename)
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "made/cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", f"{address}/{archive.name}")
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    return archive


# Python 3.12 and 3.13 warn of how torchvision unpacks; the archive has passed its MD5 by then.
@pytest.mark.filterwarnings("ignore:Python 3.14 will, by default, filter extracted tar archives:DeprecationWarning")
def test_a_data_set_that_was_not_placed_is_downloaded_once(tmp_path: Path, cifar_from_server: Path) -> None:
    root = tmp_path / "datasets"
    data = load("cifar10", root=root)
    assert len(data.train.labels) == 50
    assert [path.name for path in (root / "cifar10").iterdir()] == ["cifar-10-batches-py"]
    cifar_from_server.unlink()
    assert len(load("cifar10", resize=40, root=root).test.labels) == 10


def test_svhn_is_downloaded_file_by_file(
    tmp_path: Path, server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, served = server
    pixels = plant_svhn(served)
    accept_svhn(served, monkeypatch, address)
    monkeypatch.setenv("no_proxy", "*")
    folder = tmp_path / "datasets/svhn"
    folder.mkdir(parents=True)
    shutil.copy(served / "test_32x32.mat", folder)  # of a job that was killed between the two files
    data = load("svhn", root=tmp_path / "datasets")
    assert np.array_equal(data.test.images, pixels.transpose(0, 3, 1, 2))
    assert sorted(path.name for path in folder.iterdir()) == ["test_32x32.mat", "train_32x32.mat"]


def test_a_download_that_fails_says_why_and_what_to_do(tmp_path: Path, cifar_from_server: Path) -> None:
    cifar_from_server.write_bytes(cifar_from_server.read_bytes()[:500])
    root = tmp_path / "datasets"
    with pytest.raises(InvalidData) as refusal:
        load("cifar10", root=root)
    assert re.fullmatch(
        rf"The data set cifar10 is not in {root}/cifar10, and its download failed \(File not found or corrupted.\): "
        rf"place its files there, as published \(cifar-10-python.tar.gz\), in torchvision's format "
        rf"\({root}/cifar10/cifar-10-batches-py/\*\) or as images in .*",
        str(refusal.value),
    )
    assert list((root / "cifar10").iterdir()) == []


def test_a_server_that_cannot_be_reached_is_a_failed_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(InvalidData, match=r"mnist, and its download failed \(Error downloading train-.*refused"):
        load("mnist", root=tmp_path)
