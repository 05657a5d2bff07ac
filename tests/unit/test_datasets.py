"""Tests of reading data sets from trees of images and of the bundled digits, with every refusal."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.cifar10_jpegs import needs_jpegs, unpack
from models.dataset_spec import NamedDataset
from models.datasets import DATASETS, DatasetName
from models.errors import InvalidData
from worker.datasets.image_data import ImageData
from worker.datasets.loading import load_images


def load(name: DatasetName, *, root: Path, resize: int | None = None, **options: Any) -> ImageData:
    return load_images(NamedDataset(name=name, resize=resize), root=root, **options)


def plant(
    root: Path, name: DatasetName, per_class: int = 2, side: int | None = None
) -> dict[str, np.ndarray[Any, Any]]:
    """Write a tree of random PNG images and return the pixels of each split, (N, H, W[, 3]), in label order."""
    channels, height, width = DATASETS[name].shape
    shape = (side or height, side or width, 3) if channels == 3 else (side or height, side or width)
    random = np.random.default_rng(0)
    pixels: dict[str, np.ndarray[Any, Any]] = {}
    for split in ("train", "test"):
        pixels[split] = random.integers(0, 256, (len(DATASETS[name].classes) * per_class, *shape), dtype=np.uint8)
        for index, image in enumerate(pixels[split]):
            folder = root / name / split / DATASETS[name].classes[index // per_class].replace("/", "-")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{index % per_class:04}.png")
    return pixels


def refusal_of(name: DatasetName, root: Path, resize: int | None = None) -> str:
    """Return the sentence that loading is refused with; nothing may have been cached."""
    with pytest.raises(InvalidData) as refusal:
        load(name, resize=resize, root=root, download=False)
    assert not list(root.glob(f".cache/*{name}-*"))
    return str(refusal.value)


def test_a_tree_is_read_in_the_order_of_the_classes_and_of_the_file_names(tmp_path: Path) -> None:
    pixels = plant(tmp_path, "cifar10", per_class=3)
    data = load("cifar10", root=tmp_path)
    for split, expected in ((data.train, pixels["train"]), (data.test, pixels["test"])):
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int64
        assert np.array_equal(split.images, expected.transpose(0, 3, 1, 2))
        assert split.labels.tolist() == [label for label in range(10) for _ in range(3)]


def test_grey_images_have_one_channel_and_the_arrays_cannot_be_written_to(tmp_path: Path) -> None:
    pixels = plant(tmp_path, "mnist")
    data = load("mnist", root=tmp_path)
    assert np.array_equal(data.train.images, pixels["train"][:, np.newaxis])
    assert isinstance(data.train.images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        data.train.images[0] = 0


@pytest.mark.parametrize("folder", ["T-shirt-top", "T-shirt_top"])
def test_a_slash_in_a_class_may_be_a_dash_or_an_underscore(tmp_path: Path, folder: str) -> None:
    plant(tmp_path, "fashion_mnist")
    for split in ("train", "test"):
        (tmp_path / "fashion_mnist" / split / "T-shirt-top").rename(tmp_path / "fashion_mnist" / split / folder)
    data = load("fashion_mnist", root=tmp_path)
    assert DATASETS["fashion_mnist"].classes[0] == "T-shirt/top"
    assert np.bincount(data.train.labels).tolist() == [2] * 10


def test_hidden_files_are_left_out_and_links_are_followed(tmp_path: Path) -> None:
    plant(tmp_path, "mnist")
    (tmp_path / "mnist/.DS_Store").touch()
    (tmp_path / "mnist/train/.DS_Store").touch()
    (tmp_path / "mnist/train/3/._0000.png").touch()
    (tmp_path / "mnist/train/3/0002.png").symlink_to("0000.png")
    data = load("mnist", root=tmp_path)
    assert np.bincount(data.train.labels).tolist() == [2, 2, 2, 3, 2, 2, 2, 2, 2, 2]
    assert np.array_equal(data.train.images[8], data.train.images[6])


@pytest.mark.parametrize("resize", [16, 96])
def test_a_resize_is_pillows_bilinear_whatever_size_the_files_have(tmp_path: Path, resize: int) -> None:
    pixels = plant(tmp_path, "cifar10", side=40)
    data = load("cifar10", resize=resize, root=tmp_path)
    expected = [
        np.asarray(Image.fromarray(image).resize((resize, resize), Image.Resampling.BILINEAR))
        for image in pixels["test"]
    ]
    assert np.array_equal(data.test.images, np.stack(expected).transpose(0, 3, 1, 2))


def test_progress_is_told_every_few_hundred_images(tmp_path: Path) -> None:
    plant(tmp_path, "mnist", per_class=60)
    told: list[tuple[int, int]] = []
    load("mnist", root=tmp_path, progress=lambda done, total: told.append((done, total)))
    assert told == [(500, 1200), (600, 1200), (1100, 1200), (1200, 1200)]


def replace_image(name: str, size: tuple[int, int], mode: str) -> Callable[[Path], None]:
    return lambda folder: Image.new(mode, size).save(folder / name)


def truncate_image(folder: Path) -> None:
    path = folder / "train/cat/0001.png"
    path.write_bytes(path.read_bytes()[:400])


def empty_class(folder: Path) -> None:
    for image in (folder / "test/frog").iterdir():
        image.rename(image.with_name(f".{image.name}"))


TREE_FAULTS: list[tuple[Callable[[Path], Any], str]] = [
    (
        lambda f: (f / "train/zebra").mkdir(),
        "{f}/train/zebra is not the folder of a class; the classes are airplane,.*",
    ),
    (lambda f: (f / "train/cats.csv").touch(), "{f}/train/cats.csv is not the folder of a class; .*"),
    (lambda f: shutil.rmtree(f / "test/dog"), "{f}/test/dog is missing: each class needs a folder of images."),
    (lambda f: shutil.rmtree(f / "test"), "{f}/test is missing: images are expected in train/<class>/ and .*"),
    (empty_class, "{f}/test/frog holds no images: a label without images cannot be learned."),
    (truncate_image, "{f}/train/cat/0001.png cannot be decoded as an image .image file is truncated.*"),
    (lambda f: (f / "train/cat/0001.png").write_text("no image"), "{f}/train/cat/0001.png cannot be decoded .*"),
    (lambda f: (f / "train/cat/0001.png").write_bytes(b""), "{f}/train/cat/0001.png cannot be decoded .*"),
    (lambda f: (f / "train/cat/more").mkdir(), "{f}/train/cat/more is not a file: only files are expected .*"),
    (lambda f: (f / "train/cat/x.png").symlink_to("gone.png"), "{f}/train/cat/x.png is not a file: .*"),
    (
        replace_image("test/ship/0000.png", (31, 32), "RGB"),
        "{f}/test/ship/0000.png has 31x32 pixels, cifar10 has 32x32: mend it or use `resize`.",
    ),
    (replace_image("test/ship/0000.png", (32, 32), "L"), "{f}/test/ship/0000.png has the colour mode L, .* needs RGB."),
    (replace_image("test/ship/0000.png", (32, 32), "RGBA"), ".*0000.png has the colour mode RGBA, cifar10 needs RGB."),
    (
        lambda f: (f / "cifar-10-batches-py").mkdir(),
        "{f}/cifar-10-batches-py and {f}/train hold cifar10 in two forms: .*",
    ),
]


@pytest.mark.parametrize(("break_tree", "sentence"), TREE_FAULTS)
def test_a_fault_in_a_tree_is_refused_with_a_sentence_that_names_it(
    tmp_path: Path, break_tree: Callable[[Path], Any], sentence: str
) -> None:
    plant(tmp_path, "cifar10")
    folder = tmp_path / "cifar10"
    break_tree(folder)
    assert re.fullmatch(sentence.replace("{f}", re.escape(str(folder))), refusal_of("cifar10", tmp_path))


def test_a_class_with_two_folders_is_refused(tmp_path: Path) -> None:
    plant(tmp_path, "fashion_mnist")
    folder = tmp_path / "fashion_mnist/train"
    shutil.copytree(folder / "T-shirt-top", folder / "T-shirt_top")
    expected = (
        f"{folder}/T-shirt_top and {folder}/T-shirt-top are both folders of the class T-shirt/top: keep one of them."
    )
    assert refusal_of("fashion_mnist", tmp_path) == expected


def test_a_resize_does_not_excuse_wrong_colours(tmp_path: Path) -> None:
    plant(tmp_path, "mnist")
    Image.new("RGB", (50, 50)).save(tmp_path / "mnist/train/7/0001.png")
    assert refusal_of("mnist", tmp_path, resize=32).endswith("0001.png has the colour mode RGB, mnist needs L.")


def test_a_refused_tree_loads_once_it_is_mended(tmp_path: Path) -> None:
    plant(tmp_path, "mnist")
    bad = tmp_path / "mnist/train/7/0001.png"
    good = bad.read_bytes()
    bad.write_bytes(good[:100])
    refusal_of("mnist", tmp_path)
    bad.write_bytes(good)
    assert len(load("mnist", root=tmp_path).train.labels) == 20


def test_a_data_set_that_is_nowhere_says_where_its_files_may_be_placed(tmp_path: Path) -> None:
    folder = tmp_path / "mnist"
    assert refusal_of("mnist", tmp_path) == (
        f"The data set mnist is not in {folder}, and downloads are turned off: place its files there, as published "
        "(train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz, "
        f"t10k-labels-idx1-ubyte.gz), in torchvision's format ({folder}/MNIST/raw/*) or as images in "
        f"{folder}/train/<class>/* and {folder}/test/<class>/*."
    )


@pytest.mark.parametrize("blocked", [".", ".cache"])
def test_a_root_that_cannot_be_used_is_named(tmp_path: Path, blocked: str) -> None:
    root = tmp_path / "datasets"
    (root / blocked).parent.mkdir(exist_ok=True)
    (root / blocked).touch()
    with pytest.raises(InvalidData, match=f"^The data set directory {root} cannot be used: {root}.*: .*[a-z]\\.$"):
        load("digits", root=root)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    return load("digits", root=tmp_path_factory.mktemp("digits"))


def test_the_digits_test_split_is_a_stratified_fifth(digits: ImageData) -> None:
    facts = DATASETS["digits"]
    assert digits.train.images.shape == (facts.train_samples, 1, 8, 8) == (1437, 1, 8, 8)
    assert digits.test.images.shape == (facts.test_samples, 1, 8, 8) == (360, 1, 8, 8)
    in_test, in_train = np.bincount(digits.test.labels), np.bincount(digits.train.labels)
    assert np.all(np.abs(in_test - (in_test + in_train) * 360 / 1797) < 1)


def test_the_digits_are_scikit_learns_scaled_to_bytes(digits: ImageData) -> None:
    from sklearn.datasets import load_digits

    bundle = load_digits()
    scaled = np.rint(bundle.images * 255 / 16).astype(np.uint8)
    given = [(image.tobytes(), label) for image, label in zip(scaled, bundle.target, strict=True)]
    read = [
        (image.tobytes(), label)
        for split in (digits.train, digits.test)
        for image, label in zip(split.images, split.labels, strict=True)
    ]
    assert sorted(read) == sorted(given)
    assert scaled.max() == 255


def test_the_digits_and_their_split_are_the_same_for_ever(digits: ImageData) -> None:
    assert digits.checksum == "9f6a254d3faf029b33204267e58df819e055e292287fbffd9c5a2e1e4f2a0a83"


@needs_jpegs
def test_jpegs_of_the_real_cifar_tree_are_read(tmp_path: Path) -> None:
    unpack(tmp_path / "cifar10", of_each=10)
    data = load("cifar10", root=tmp_path)
    assert data.train.images.shape == data.test.images.shape == (100, 3, 32, 32)
    mean = data.train.images.mean(axis=(0, 2, 3)) / 255
    assert np.allclose(mean, DATASETS["cifar10"].mean, atol=0.08)
