"""Tests of the cache of decoded data sets: built once, found damaged, rebuilt, and never half there."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.dataset_spec import NamedDataset
from models.datasets import DatasetName
from models.errors import InvalidData
from worker.datasets.image_data import ImageData
from worker.datasets.loading import load_images

REPOSITORY = Path(__file__).parents[2]
PARTS = ("train_images", "train_labels", "train_digests", "test_images", "test_labels", "test_digests")


def load(name: DatasetName, *, root: Path, resize: int | None = None, **options: Any) -> ImageData:
    return load_images(NamedDataset(name=name, resize=resize), root=root, **options)


# What the scripts of other processes begin with.
PREPARED = """
import sys, time
from pathlib import Path
from models.dataset_spec import NamedDataset
from worker.datasets.loading import load_images

root = Path(sys.argv[1])

def load(name, root, resize=None, **options):
    return load_images(NamedDataset(name=name, resize=resize), root=root, **options)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a tree of 60 + 20 grey images for mnist."""
    random = np.random.default_rng(0)
    for split, per_class in (("train", 6), ("test", 2)):
        for index in range(10 * per_class):
            folder = tmp_path / "mnist" / split / str(index // per_class)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (28, 28), dtype=np.uint8)).save(folder / f"{index}.png")
    return tmp_path


def open_or_build(root: Path, resize: int | None = None) -> tuple[ImageData, bool]:
    """Load mnist and tell whether it had to be decoded."""
    decoded: list[int] = []
    data = load("mnist", resize=resize, root=root, download=False, progress=lambda done, _: decoded.append(done))
    return data, bool(decoded)


def entries(root: Path) -> list[Path]:
    """The published caches and whatever writers left behind."""
    return [path for path in (root / ".cache").iterdir() if path.is_dir()]


def start(script: str, root: Path) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-c",
        f"{PREPARED}{script}",
        str(root),
    ]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)


def test_a_second_load_opens_what_the_first_has_built(root: Path) -> None:
    first, first_decoded = open_or_build(root)
    second, second_decoded = open_or_build(root)
    assert (first_decoded, second_decoded) == (True, False)
    assert first.checksum == second.checksum
    assert np.array_equal(first.train.images, second.train.images)
    assert np.array_equal(first.test.labels, second.test.labels)


def test_a_cached_data_set_is_opened_with_numpy_alone(root: Path) -> None:
    open_or_build(root)
    load("digits", resize=32, root=root)
    script = """
assert len(load("mnist", root=root).train.labels) == 60
assert len(load("digits", resize=32, root=root).train.labels) == 1437
print(sorted({"PIL", "torch", "torchvision", "sklearn", "scipy"} & set(sys.modules)))
"""
    process = start(script, root)
    assert process.communicate(timeout=60)[0] == "[]\n"


def test_four_processes_at_once_decode_once(root: Path) -> None:
    script = """
calls = []
print("ready", flush=True)
sys.stdin.readline()
def slowly(done, total):
    calls.append(done)
    time.sleep(0.5)
data = load("mnist", root=root, progress=slowly)
print(len(calls), data.checksum, int(data.train.images.sum()), flush=True)
"""
    processes = [start(script, root) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60)[0].split() for process in processes]
    assert sorted(int(calls) for calls, *_ in answers) == [0, 0, 0, 2]
    assert len({tuple(rest) for _, *rest in answers}) == 1
    assert len(entries(root)) == 1


def add_an_image(folder: Path) -> None:
    shutil.copy(folder / "train/3/20.png", folder / "train/3/21a.png")


def change_pixels_only(folder: Path) -> None:
    Image.new("L", (28, 28), 77).save(folder / "train/0/0.png")


def change_pixels_but_not_the_size(folder: Path) -> None:
    path = folder / "train/0/0.png"
    before = path.read_bytes()
    path.write_bytes((folder / "train/0/1.png").read_bytes()[: len(before)].ljust(len(before), b"\0"))


@pytest.mark.parametrize("change", [add_an_image, change_pixels_only, change_pixels_but_not_the_size])
def test_a_changed_source_is_decoded_again_and_the_older_cache_goes(root: Path, change: Callable[[Path], None]) -> None:
    before, _ = open_or_build(root)
    other_size, _ = open_or_build(root, resize=14)
    pixels = before.train.images.copy()
    change(root / "mnist")
    after, decoded = open_or_build(root)
    assert decoded
    assert after.checksum != before.checksum
    assert np.array_equal(before.train.images, pixels)  # a job that still maps the older cache keeps it whole
    assert len(entries(root)) == 2
    assert other_size.train.images.shape[-1] == 14


def test_a_source_that_changes_while_it_is_read_is_refused(root: Path) -> None:
    with pytest.raises(InvalidData, match=r"mnist was changed while it was read: start the job again when all files"):
        load("mnist", root=root, progress=lambda *_: add_an_image(root / "mnist"))
    assert not entries(root)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip_the_last_byte(path: Path) -> None:
    flip(path, -1)


def flip_in_the_header(path: Path) -> None:
    flip(path, 30)


def flip(path: Path, position: int) -> None:
    """Flip one byte in place and give the file back its time of change."""
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[position] ^= 0x04
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


DAMAGES: list[tuple[str, Callable[[Path], Any]]] = [
    *((f"{part}.npy", damage) for part in PARTS for damage in (truncate, flip_the_last_byte, flip_in_the_header)),
    *((f"{part}.npy", Path.unlink) for part in PARTS),
    ("meta.json", truncate),
    ("meta.json", lambda path: flip(path, path.stat().st_size // 2)),
    ("meta.json", Path.unlink),
]


@pytest.mark.parametrize(("file", "damage"), DAMAGES)
def test_a_damaged_cache_is_rebuilt(root: Path, file: str, damage: Callable[[Path], Any]) -> None:
    before, _ = open_or_build(root)
    pixels, labels = before.train.images.copy(), before.test.labels.copy()
    (entry,) = entries(root)
    damage(entry / file)
    after, decoded = open_or_build(root)
    assert decoded
    assert after.checksum == before.checksum
    assert np.array_equal(after.train.images, pixels)
    assert np.array_equal(after.test.labels, labels)
    assert entries(root) == [entry]


def test_damage_after_the_cache_was_verified_is_found_too(root: Path) -> None:
    before, _ = open_or_build(root)
    (entry,) = entries(root)
    time.sleep(1.1)  # a younger file is not trusted, so not noted as verified
    assert not open_or_build(root)[1]
    assert (entry / "verified").exists()
    assert not open_or_build(root)[1]
    flip_the_last_byte(entry / "train_images.npy")
    after, decoded = open_or_build(root)
    assert decoded
    assert after.checksum == before.checksum


def test_a_cache_verified_yesterday_is_verified_again(root: Path) -> None:
    open_or_build(root)
    (entry,) = entries(root)
    time.sleep(1.1)
    open_or_build(root)
    noted = entry / "verified"
    yesterday = time.time() - 25 * 3600
    os.utime(noted, (yesterday, yesterday))
    open_or_build(root)
    assert noted.stat().st_mtime > yesterday + 3600


def kill(process: subprocess.Popen[str], awaited: str) -> None:
    """Wait for the line `awaited`, then end the process as a crash would."""
    assert process.stdout is not None
    assert process.stdout.readline() == f"{awaited}\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)


def test_a_kill_while_decoding_leaves_no_cache_and_no_lock(root: Path) -> None:
    script = """
def stall(done, total):
    print("decoding", flush=True)
    time.sleep(60)
load("mnist", root=root, progress=stall)
"""
    kill(start(script, root), "decoding")
    assert not entries(root)
    assert open_or_build(root)[1]


@pytest.mark.parametrize("writes", range(1, 10))
def test_a_kill_while_writing_leaves_no_cache_that_is_taken_for_good(root: Path, writes: int) -> None:
    script = f"""
import os
fsync, done = os.fsync, []
def stall(descriptor):
    done.append(descriptor)
    if len(done) == {writes}:
        print("writing", flush=True)
        time.sleep(60)
    fsync(descriptor)
os.fsync = stall
load("mnist", root=root)
"""
    kill(start(script, root), "writing")
    (left,) = entries(root)
    # Six arrays, the description and their directory are synced before the rename, the parent directory after it.
    assert left.name.startswith(".tmp-mnist-") == (writes < 9)
    data, decoded = open_or_build(root)
    assert decoded == (writes < 9)
    assert data.train.images.shape == (60, 1, 28, 28)
    assert [entry.name.startswith("mnist-") for entry in entries(root)] == [True]
