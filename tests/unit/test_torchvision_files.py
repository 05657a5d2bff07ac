"""Tests of reading data sets from torchvision's own files, and of its download."""

import functools
import gzip
import hashlib
import http.server
import pickle
import re
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.datasets import DATASETS, DatasetName
from models.errors import InvalidData
from worker.datasets import load


def refusal_of(name: DatasetName, root: Path) -> str:
    """Return the sentence that loading is refused with; nothing may have been cached."""
    with pytest.raises(InvalidData) as refusal:
        load(name, resize=None, root=root, download=False)
    assert not list(root.glob(f".cache/*{name}-*"))
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
    data = load("mnist", resize=None, root=tmp_path, download=False)
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
    ("t10k-images-idx3-ubyte", lambda p: p.unlink(), "{p} is missing: unpack it there if it came as a .gz file."),
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


def accept_batches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision expect the MD5s that the files in `folder` have; all of its code runs as it is."""
    from torchvision.datasets import CIFAR10

    def with_md5(names: list[str]) -> list[list[str]]:
        return [[name, hashlib.md5((folder / name).read_bytes()).hexdigest()] for name in names]

    monkeypatch.setattr(CIFAR10, "train_list", with_md5([name for name, _ in CIFAR10.train_list]))
    monkeypatch.setattr(CIFAR10, "test_list", with_md5(["test_batch"]))
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": with_md5(["batches.meta"])[0][1]})


def test_cifar_batches_are_read_by_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar10/cifar-10-batches-py"
    pixels = plant_batches(folder)
    accept_batches(folder, monkeypatch)
    data = load("cifar10", resize=None, root=tmp_path, download=False)
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
    from torchvision.datasets import CIFAR10

    address, served = server
    plant_batches(tmp_path / "made/cifar-10-batches-py")
    accept_batches(tmp_path / "made/cifar-10-batches-py", monkeypatch)
    archive = served / str(CIFAR10.filename)
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "made/cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(CIFAR10, "url", f"{address}/{archive.name}")
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    return archive


# Python 3.12 and 3.13 warn of how torchvision unpacks; the archive has passed its MD5 by then.
@pytest.mark.filterwarnings("ignore:Python 3.14 will, by default, filter extracted tar archives:DeprecationWarning")
def test_a_data_set_that_was_not_placed_is_downloaded_once(tmp_path: Path, cifar_from_server: Path) -> None:
    root = tmp_path / "datasets"
    data = load("cifar10", resize=None, root=root)
    assert len(data.train.labels) == 50
    assert [path.name for path in (root / "cifar10").iterdir()] == ["cifar-10-batches-py"]
    cifar_from_server.unlink()
    assert len(load("cifar10", resize=40, root=root).test.labels) == 10


def test_a_download_that_fails_says_why_and_what_to_do(tmp_path: Path, cifar_from_server: Path) -> None:
    cifar_from_server.write_bytes(cifar_from_server.read_bytes()[:500])
    root = tmp_path / "datasets"
    with pytest.raises(InvalidData) as refusal:
        load("cifar10", resize=None, root=root)
    assert re.fullmatch(
        rf"The data set cifar10 is not in {root}/cifar10, and its download failed \(File not found or corrupted.\): "
        rf"place its files there, either in torchvision's format \({root}/cifar10/cifar-10-batches-py/\*\) or as .*",
        str(refusal.value),
    )
    assert list((root / "cifar10").iterdir()) == []


def test_a_server_that_cannot_be_reached_is_a_failed_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import MNIST

    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(InvalidData, match=r"mnist, and its download failed \(Error downloading train-.*refused"):
        load("mnist", resize=None, root=tmp_path)
