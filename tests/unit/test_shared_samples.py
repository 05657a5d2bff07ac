"""Tests of the count of samples that stand in two splits, and of what else a report says of splits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from models.dataset_spec import ImagesDataset, NamedDataset, TableDataset, ValidationSplit
from models.datasets import DATASETS
from models.errors import InvalidData
from worker.datasets import PreparedData, prepare
from worker.datasets.hashing import sample_digests
from worker.datasets.loading import load_images
from worker.datasets.preparation import count_shared
from worker.datasets.splits import stratified_holdout

DIGITS = st.lists(st.integers(0, 9), min_size=1, max_size=30).map(lambda numbers: np.array(numbers, dtype=np.uint64))


def plant(root: Path, train: list[int], test: list[int]) -> None:
    """Write pictures of two classes, each all of one brightness, as the lists say for either class."""
    for split, levels in (("train", train), ("test", test)):
        for number, name in enumerate(("one", "two")):
            folder = root / "images/plain" / split / name
            folder.mkdir(parents=True)
            for index, level in enumerate(levels):
                side = 8 + index  # another file, the same pixels once resized
                Image.new("L", (side, side), level + 100 * number).save(folder / f"{index}.png")


def plain(root: Path, validation: ValidationSplit) -> PreparedData:
    spec = ImagesDataset(folder="plain", classes=["one", "two"], resize=8, colors="gray", validation=validation)
    return prepare(spec, seed=0, root=root)


def test_pictures_are_compared_by_their_pixels_after_resizing(tmp_path: Path) -> None:
    plant(tmp_path, train=[1, 2, 3, 4], test=[3, 3, 4, 9])
    assert plain(tmp_path, 0).report.shared_samples == {"train/test": 6}  # of the test split: doubles count each
    assert plain(tmp_path, "test").report.shared_samples == {"train/test": 6}


def test_every_pair_of_splits_is_counted(tmp_path: Path) -> None:
    plant(tmp_path, train=[7] * 10, test=[7, 8])
    data = plain(tmp_path, 0.2)
    assert data.report.shared_samples == {"train/validation": 4, "train/test": 2, "validation/test": 2}


def test_splits_that_share_nothing_say_so(tmp_path: Path) -> None:
    plant(tmp_path, train=list(range(10)), test=[50])
    shared = plain(tmp_path, 0.2).report.shared_samples
    assert shared == {"train/validation": 0, "train/test": 0, "validation/test": 0}


def test_rows_of_a_table_are_compared_by_features_and_target(tmp_path: Path) -> None:
    features: list[Any] = ["a", {"kind": "one_hot", "column": "c", "categories": ["x", "z"]}]
    spec = TableDataset.model_validate({"file": "t.csv", "target": "y", "features": features, "test_split": 0.5})
    spec = spec.model_copy(update={"validation": 0.0})
    (tmp_path / "tables").mkdir()
    table = tmp_path / "tables/t.csv"
    # Written in other ways, or apart in a column that is not used, rows are the same.
    table.write_text("a,c,y,note\n" + "1,x,2,p\n1.0, x ,2e0,q\n" * 10)
    assert prepare(spec, seed=0, root=tmp_path).report.shared_samples == {"train/test": 10}
    table.write_text("a,c,y\n" + "".join(f"1,x,{n}\n" for n in range(20)))
    assert prepare(spec, seed=0, root=tmp_path).report.shared_samples == {"train/test": 0}
    table.write_text("a,c,y\n" + "-0,x,0\n0,x,-0.0\n" * 10)
    assert prepare(spec, seed=0, root=tmp_path).report.shared_samples == {"train/test": 10}


@given(DIGITS, DIGITS, DIGITS)
def test_the_count_is_of_the_second_splits_samples_that_stand_in_the_first(
    train: NDArray[np.uint64], validation: NDArray[np.uint64], test: NDArray[np.uint64]
) -> None:
    def count(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> int:
        return sum(number in set(first.tolist()) for number in second.tolist())

    assert count_shared({"train": train, "validation": validation, "test": test}) == {
        "train/validation": count(train, validation),
        "train/test": count(train, test),
        "validation/test": count(validation, test),
    }


def test_digests_tell_every_byte_and_no_layout_apart() -> None:
    samples = np.random.default_rng(0).integers(0, 256, (200, 3, 4, 4), dtype=np.uint8)
    digests = sample_digests(samples)
    assert digests.dtype == np.uint64
    assert len(set(digests.tolist())) == 200
    changed = samples.copy()
    changed[:, 2, 3, 3] ^= 1
    assert not np.any(sample_digests(changed) == digests)
    assert np.array_equal(sample_digests(np.asfortranarray(samples)), digests)
    assert np.array_equal(sample_digests(samples[::2]), digests[::2])
    assert sample_digests(samples[:0]).shape == (0,)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("digits")


@pytest.mark.parametrize("seed", [0, 7])
def test_a_named_data_set_is_split_by_the_training_seed(root: Path, seed: int) -> None:
    whole = load_images(NamedDataset(name="digits"), root=root)
    kept, held_out = stratified_holdout(whole.train.labels, 0.1, seed)
    data = prepare(NamedDataset(name="digits"), seed=seed, root=root)
    assert data.validation is not None
    for split, images, labels in (
        (data.train, whole.train.images[kept], whole.train.labels[kept]),
        (data.validation, whole.train.images[held_out], whole.train.labels[held_out]),
        (data.test, whole.test.images, whole.test.labels),
    ):
        assert np.array_equal(split.inputs, images)
        assert np.array_equal(split.targets, labels)
    facts = DATASETS["digits"]
    assert (data.mean, data.std, data.target_scale) == (facts.mean, facts.std, None)
    report = data.report
    assert (report.name, report.checksum, report.input_shape) == ("digits", whole.checksum, [1, 8, 8])
    assert list(report.splits) == ["train", "validation", "test"]
    assert list(report.splits["test"].classes.values()) == np.bincount(whole.test.labels).tolist()
    assert (report.scaling["gray"].shift, report.scaling["gray"].scale) == (facts.mean[0], facts.std[0])


def test_a_named_data_set_without_validation_trains_on_everything(root: Path) -> None:
    nothing = prepare(NamedDataset(name="digits", validation=0.0), seed=0, root=root)
    assert nothing.validation is None
    assert len(nothing.train.targets) == DATASETS["digits"].train_samples
    on_test = prepare(NamedDataset(name="digits", validation="test"), seed=0, root=root)
    assert on_test.validation is on_test.test
    for data in (nothing, on_test):
        assert list(data.report.splits) == ["train", "test"]
        assert list(data.report.shared_samples) == ["train/test"]


def test_the_same_seed_gives_the_same_data(root: Path) -> None:
    one, other = (prepare(NamedDataset(name="digits", validation=0.3), seed=5, root=root) for _ in range(2))
    assert one.report == other.report
    assert np.array_equal(one.train.inputs, other.train.inputs)


def test_a_validation_split_too_small_for_a_sample_is_refused(tmp_path: Path) -> None:
    plant(tmp_path, train=[1, 2], test=[3])
    with pytest.raises(
        InvalidData,
        match=r"^The validation split of images/plain cannot be held out\. Holding out 0\.1 of 4 samples leaves one of",
    ):
        plain(tmp_path, 0.1)
