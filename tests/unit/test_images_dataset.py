"""Tests of images of one's own: any tree of class folders, in any size and mode, split, converted and measured."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image

from harness.cifar10_jpegs import needs_jpegs, unpack
from models.dataset_spec import ImagesDataset, NamedDataset
from models.errors import InvalidData
from worker.datasets import PreparedData, prepare
from worker.datasets.loading import load_images
from worker.datasets.scaling import fit_channels

CLASSES = ["cat", "ant", "bee"]


def spec(**fields: Any) -> ImagesDataset:
    return ImagesDataset.model_validate({"folder": "pets", "classes": CLASSES, "resize": 8} | fields)


def plant(root: Path, folder: str = "pets", splits: tuple[str, ...] = ("train",), per_class: int = 10) -> Path:
    """Write random colour pictures of mixed sizes and return the folder."""
    random = np.random.default_rng(len(splits))
    for split in splits:
        for name in CLASSES:
            place = root / "images" / folder / split / name
            place.mkdir(parents=True)
            for index in range(per_class):
                height, width = random.integers(5, 30, 2)
                picture = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
                Image.fromarray(picture).save(place / f"{index:03}.png")
    return root / "images" / folder


def load(root: Path, seed: int = 1, **fields: Any) -> tuple[PreparedData, bool]:
    """Prepare the pets and tell whether they had to be decoded."""
    decoded: list[int] = []
    data = prepare(spec(**fields), seed=seed, root=root, progress=lambda done, _: decoded.append(done))
    return data, bool(decoded)


def only_picture(root: Path, save: Callable[[Path], Any], colors: str = "rgb") -> NDArray[np.uint8]:
    """Return the pixels, (C, 8, 8), that the first picture of the first class becomes."""
    folder = plant(root)
    for path in (folder / "train/cat").iterdir():
        path.unlink()
    save(folder / "train/cat/000")
    for index in range(1, 4):
        Image.new("RGB", (8, 8)).save(folder / f"train/cat/{index}.png")
    return np.array(load_images(spec(colors=colors), root=root).train.images[0])


def refusal(root: Path, **fields: Any) -> str:
    with pytest.raises(InvalidData) as refused:
        prepare(spec(**fields), seed=1, root=root)
    return str(refused.value)


def test_pictures_of_mixed_sizes_are_resized_once_with_pillows_antialiasing(tmp_path: Path) -> None:
    folder = plant(tmp_path, splits=("train", "test"), per_class=2)
    data, _ = load(tmp_path, validation=0)
    for split, prepared in (("train", data.train), ("test", data.test)):
        paths = [path for name in CLASSES for path in sorted((folder / split / name).iterdir())]
        expected = [
            np.asarray(Image.open(path).resize((8, 8), Image.Resampling.BILINEAR)).transpose(2, 0, 1) for path in paths
        ]
        assert np.array_equal(prepared.inputs, np.stack(expected))
        assert prepared.inputs.dtype == np.uint8
        assert prepared.targets.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_report_names_folder_shape_splits_and_scaling(tmp_path: Path) -> None:
    plant(tmp_path, splits=("train", "test"))
    data, _ = load(tmp_path, validation=0.2)
    report = data.report
    assert (report.name, report.input_shape) == ("images/pets", [3, 8, 8])
    assert {name: (split.samples, split.classes) for name, split in report.splits.items()} == {
        "train": (24, {"cat": 8, "ant": 8, "bee": 8}),
        "validation": (6, {"cat": 2, "ant": 2, "bee": 2}),
        "test": (30, {"cat": 10, "ant": 10, "bee": 10}),
    }
    assert data.mean is not None
    assert data.std is not None
    assert data.target_scale is None
    assert list(report.scaling) == ["red", "green", "blue"]
    assert tuple(scale.shift for scale in report.scaling.values()) == data.mean
    assert tuple(scale.scale for scale in report.scaling.values()) == data.std


def test_gray_pictures_have_one_channel(tmp_path: Path) -> None:
    folder = plant(tmp_path)
    data, _ = load(tmp_path, colors="gray", validation=0, test_split=0.1)
    assert data.train.inputs.shape == (27, 1, 8, 8)
    assert list(data.report.scaling) == ["gray"]
    first = Image.open(folder / "train/cat/000.png").convert("L").resize((8, 8), Image.Resampling.BILINEAR)
    images = load_images(spec(colors="gray"), root=tmp_path).train.images
    assert np.array_equal(images[0, 0], np.asarray(first))


def gradient(mode: str) -> Image.Image:
    pixels = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)
    return Image.fromarray(np.stack([pixels, pixels.T, 255 - pixels], axis=-1)).convert(mode)


def palette_with_transparency() -> Image.Image:
    picture = gradient("RGB").quantize(16)
    picture.info["transparency"] = bytes(range(0, 160, 10))
    return picture


def sixteen_bits() -> Image.Image:
    return Image.fromarray(np.linspace(0, 65_535, 64).astype(np.uint16).reshape(8, 8))


MODES: list[tuple[str, Callable[[], Image.Image], str]] = [
    ("bit", lambda: gradient("1"), "PNG"),
    ("gray", lambda: gradient("L"), "PNG"),
    ("gray-alpha", lambda: gradient("RGBA").convert("LA"), "PNG"),
    ("colour", lambda: gradient("RGB"), "PNG"),
    ("colour-alpha", lambda: gradient("RGBA"), "PNG"),
    ("palette", lambda: gradient("RGB").quantize(16), "PNG"),
    ("palette-transparency", palette_with_transparency, "PNG"),
    ("print", lambda: gradient("CMYK"), "TIFF"),
    ("print-jpeg", lambda: gradient("CMYK"), "JPEG"),
    ("gif", lambda: gradient("RGB").quantize(16), "GIF"),
    ("webp", lambda: gradient("RGBA"), "WEBP"),
    ("bmp", lambda: gradient("RGB"), "BMP"),
]


@pytest.mark.parametrize("colors", ["rgb", "gray"])
@pytest.mark.parametrize(("make", "form"), [mode[1:] for mode in MODES], ids=[mode[0] for mode in MODES])
def test_every_mode_is_converted_as_pillow_shows_it(
    tmp_path: Path, make: Callable[[], Image.Image], form: str, colors: str
) -> None:
    pixels = only_picture(tmp_path, lambda path: make().save(path, form), colors)
    with Image.open(tmp_path / "images/pets/train/cat/000") as shown:
        # Through RGBA, transparency is dropped and not laid on black or white.
        expected = np.asarray(shown.convert("RGBA").convert("RGB" if colors == "rgb" else "L"))
    assert np.array_equal(pixels, expected.transpose(2, 0, 1) if colors == "rgb" else expected[np.newaxis])


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_to_eight_not_clipped(tmp_path: Path, form: str) -> None:
    pixels = only_picture(tmp_path, lambda path: sixteen_bits().save(path, form), "gray")
    assert np.array_equal(pixels[0], np.rint(np.asarray(sixteen_bits()) / 257).astype(np.uint8))
    assert (pixels.min(), pixels.max()) == (0, 255)


@pytest.mark.parametrize("values", [np.full((8, 8), 0.5, np.float32), np.full((8, 8), -5, np.int32)])
def test_brightness_of_an_unknown_range_is_refused(tmp_path: Path, values: NDArray[Any]) -> None:
    path = tmp_path / "images/pets/train/cat/000"
    with pytest.raises(InvalidData, match=rf"^{path} cannot be converted to rgb \(the range of its brightness is not"):
        only_picture(tmp_path, lambda place: Image.fromarray(values).save(place, "TIFF"))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_picture_is_turned_the_way_up_that_its_exif_says(tmp_path: Path, form: str) -> None:
    lying = np.zeros((8, 8, 3), np.uint8)
    lying[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the scene is at the right of the stored rows
    pixels = only_picture(tmp_path, lambda path: Image.fromarray(lying).save(path, form, exif=exif))
    assert pixels[:, :, :4].max() < 10
    assert pixels[:, :, 4:].min() > 245


def test_without_test_images_a_seeded_stratified_fifth_is_the_test_split(tmp_path: Path) -> None:
    plant(tmp_path)
    one, _ = load(tmp_path, seed=1)
    other, _ = load(tmp_path, seed=2)
    assert one.report.splits["test"].classes == {"cat": 2, "ant": 2, "bee": 2}
    assert np.array_equal(one.test.inputs, other.test.inputs)  # the training seed does not move the test split
    assert one.validation is not None
    assert other.validation is not None
    assert not np.array_equal(one.validation.inputs, other.validation.inputs)
    moved, _ = load(tmp_path, seed=1, split_seed=5)
    assert not np.array_equal(one.test.inputs, moved.test.inputs)
    larger, _ = load(tmp_path, test_split=0.5, validation=0)
    assert larger.report.splits["test"].classes == {"cat": 5, "ant": 5, "bee": 5}
    assert larger.validation is None


def test_all_splits_together_are_the_tree(tmp_path: Path) -> None:
    plant(tmp_path)
    data, _ = load(tmp_path, validation=0.25)
    whole = load_images(spec(), root=tmp_path).train
    assert data.validation is not None
    rows = [
        (label, image.tobytes())
        for split in (data.train, data.validation, data.test)
        for image, label in zip(split.inputs, split.targets.tolist(), strict=True)
    ]
    assert sorted(rows) == sorted(
        (label, image.tobytes()) for image, label in zip(whole.images, whole.labels.tolist(), strict=True)
    )


def test_a_test_split_beside_test_images_is_refused(tmp_path: Path) -> None:
    folder = plant(tmp_path, splits=("train", "test"))
    expected = f"{folder}/test holds test images: remove `test_split` from the spec, or that folder."
    assert refusal(tmp_path, test_split=0.2) == expected


def test_mean_and_deviation_are_measured_over_the_training_rows_alone(tmp_path: Path) -> None:
    plant(tmp_path, splits=("train", "test"))
    data, _ = load(tmp_path, validation=0.3)
    pixels = data.train.inputs.astype(np.float64) / 255
    assert data.mean == pytest.approx(pixels.mean(axis=(0, 2, 3)), rel=1e-12)
    assert data.std == pytest.approx(pixels.std(axis=(0, 2, 3)), rel=1e-12)
    everything, _ = load(tmp_path, validation=0)
    assert everything.mean != data.mean


@given(
    arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.sampled_from([1, 3]), st.integers(1, 5), st.integers(1, 5)))
)
def test_channels_are_measured_as_numpy_does(images: NDArray[np.uint8]) -> None:
    mean, std = fit_channels(images)
    scaled = images.astype(np.float64) / 255
    assert mean == pytest.approx(scaled.mean(axis=(0, 2, 3)), rel=1e-12)
    expected = [1.0 if channel.min() == channel.max() else channel.std() / 255 for channel in images.swapaxes(0, 1)]
    assert std == pytest.approx(expected, rel=1e-9)


def test_channels_of_many_images_are_summed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 4, 4), dtype=np.uint8)
    whole = fit_channels(images)
    monkeypatch.setattr("worker.datasets.scaling._CHUNK_PIXELS", 100)
    assert fit_channels(images) == whole


def test_nearly_constant_pixels_keep_their_exact_deviation() -> None:
    images = np.full((4_000, 1, 16, 16), 255, np.uint8)
    images[0, 0, 0, 0] = 254
    count = images.size
    assert fit_channels(images)[1][0] == pytest.approx(np.sqrt((count - 1) / count**2) / 255, rel=1e-12)


def empty_a_class(folder: Path) -> None:
    shutil.rmtree(folder / "train/ant")
    (folder / "train/ant").mkdir()


FAULTS: list[tuple[Callable[[Path], Any], dict[str, Any], str]] = [
    (shutil.rmtree, {}, "{f}/train is missing: images are expected in train/<class>/."),
    (
        lambda f: (f / "train/dog").mkdir(),
        {},
        "{f}/train/dog is not the folder of a class; the classes are cat, ant, bee.",
    ),
    (lambda f: shutil.rmtree(f / "train/ant"), {}, "{f}/train/ant is missing: each class needs a folder of images."),
    (empty_a_class, {}, "{f}/train/ant holds no images: a label without images cannot be learned."),
    (lambda f: (f / "test").mkdir(), {}, "{f}/test/cat is missing: each class needs a folder of images."),
    (lambda f: (f / "train/cat/Thumbs.db").write_text("x"), {}, "{f}/train/cat/Thumbs.db cannot be decoded as .*"),
    (
        lambda f: None,
        {"classes": ["a/b", "a-b", *CLASSES]},
        "The classes a/b and a-b would share {f}/train/a-b: rename one.",
    ),
    (
        lambda f: None,
        {"classes": [f"class {n}" for n in range(99)]},
        r"{f}/train/ant is not .* are class 0, .*, class 19, ... \(99 in all\).",
    ),
    (
        lambda f: None,
        {"classes": ["cat", "ant", "bee", ".."]},
        r".*/\.\. is missing: each class needs a folder of images.",
    ),
]


@pytest.mark.parametrize(("break_tree", "fields", "sentence"), FAULTS)
def test_a_fault_is_refused_with_a_sentence_that_names_it(
    tmp_path: Path, break_tree: Callable[[Path], Any], fields: dict[str, Any], sentence: str
) -> None:
    folder = plant(tmp_path)
    break_tree(folder)
    assert re.fullmatch(sentence.replace("{f}", re.escape(str(folder))), refusal(tmp_path, **fields))


def test_a_second_job_decodes_nothing_whatever_its_splits(tmp_path: Path) -> None:
    plant(tmp_path)
    first, decoded = load(tmp_path)
    again, decoded_again = load(tmp_path, seed=9, test_split=0.3, split_seed=4, validation="test")
    assert (decoded, decoded_again) == (True, False)
    assert first.report.checksum == again.report.checksum
    assert again.validation is again.test


def test_each_form_has_a_cache_of_its_own_and_none_drives_another_out(tmp_path: Path) -> None:
    plant(tmp_path)
    forms: list[dict[str, Any]] = [{}, {"resize": 9}, {"colors": "gray"}, {"classes": CLASSES[::-1]}]
    checksums = set()
    for fields in forms:
        data, decoded = load(tmp_path, **fields)
        assert decoded
        checksums.add(data.report.checksum)
    assert len(checksums) == 4
    assert [load(tmp_path, **fields)[1] for fields in forms] == [False] * 4


def test_another_order_of_classes_is_another_order_of_labels(tmp_path: Path) -> None:
    plant(tmp_path)
    one = load_images(spec(), root=tmp_path).train
    other = load_images(spec(classes=CLASSES[::-1]), root=tmp_path).train
    assert np.array_equal(one.images[one.labels == 0], other.images[other.labels == 2])


def test_a_changed_tree_is_decoded_again_and_its_older_cache_goes(tmp_path: Path) -> None:
    folder = plant(tmp_path)
    before, _ = load(tmp_path)
    shutil.copy(folder / "train/cat/000.png", folder / "train/cat/zzz.png")
    after, decoded = load(tmp_path)
    assert decoded
    assert after.report.checksum != before.report.checksum
    shutil.copytree(folder / "train", folder / "test")
    with_test, decoded = load(tmp_path)
    assert decoded
    assert with_test.report.splits["test"].samples == 31
    assert len([path for path in (tmp_path / ".cache").iterdir() if path.is_dir()]) == 1


@pytest.mark.parametrize("folder", ["my pets [2]*", "питомцы", "-", "x" * 128, "ü?:|\"<>'"])
def test_any_name_of_a_folder_is_safe_in_the_cache(tmp_path: Path, folder: str) -> None:
    plant(tmp_path, folder)
    assert [load(tmp_path, folder=folder)[1] for _ in range(2)] == [True, False]
    assert all(re.fullmatch(r"[\w.-]+", path.name, re.ASCII) for path in (tmp_path / ".cache").iterdir())


def test_folders_of_similar_names_do_not_share_a_cache(tmp_path: Path) -> None:
    plant(tmp_path, "a b", splits=("train",))
    plant(tmp_path, "a_b", splits=("train", "test"))
    one, _ = load(tmp_path, folder="a b")
    other, _ = load(tmp_path, folder="a_b")
    assert one.report.checksum != other.report.checksum
    assert [load(tmp_path, folder=folder)[1] for folder in ("a b", "a_b")] == [False, False]


def test_a_folder_may_be_a_link_to_another_place(tmp_path: Path) -> None:
    folder = plant(tmp_path)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert load(tmp_path)[0].report.splits["test"].samples == 6


@needs_jpegs
def test_the_jpeg_tree_of_cifar10_is_a_set_of_images_too(tmp_path: Path) -> None:
    unpack(tmp_path / "cifar10", of_each=5)
    (tmp_path / "images").mkdir()
    (tmp_path / "images/pets").symlink_to(tmp_path / "cifar10")
    named = NamedDataset(name="cifar10", validation=0.2)
    own = spec(classes=list(named.class_names), resize=32, validation=0.2)
    by_name, by_tree = (prepare(dataset, seed=3, root=tmp_path) for dataset in (named, own))
    assert np.array_equal(by_name.train.inputs, by_tree.train.inputs)
    assert np.array_equal(by_name.test.targets, by_tree.test.targets)
    assert by_name.report.checksum == by_tree.report.checksum
    assert by_name.report.splits == by_tree.report.splits
    assert by_tree.mean == pytest.approx(by_name.mean, abs=0.08)
