"""Tests of what a spec says of its data before any file is read: shapes, classes, tasks, and every refusal."""

import json
from typing import Any

import pytest
import torchvision
from pydantic import TypeAdapter, ValidationError

from models.dataset_spec import DatasetChoice, DatasetSpec, ImagesDataset, NamedDataset, TableDataset
from models.datasets import DATASETS, DatasetName

ADAPTER: TypeAdapter[DatasetSpec] = TypeAdapter(DatasetChoice)
IMAGES: dict[str, Any] = {"name": "images", "folder": "pets", "classes": ["cat", "dog"], "resize": 32}
TABLE: dict[str, Any] = {"name": "table", "file": "t.csv", "target": "y", "features": ["a", "b"]}
ONE_HOT: dict[str, Any] = {"kind": "one_hot", "column": "c", "categories": ["x", "y", "z"]}


def parse(fields: dict[str, Any]) -> DatasetSpec:
    return ADAPTER.validate_json(json.dumps(fields))


@pytest.mark.parametrize("name", DATASETS)
def test_a_named_data_set_knows_its_shape_and_classes(name: DatasetName) -> None:
    spec = parse({"name": name, "resize": 48})
    facts = DATASETS[name]
    assert isinstance(spec, NamedDataset)
    assert spec.input_shape == (facts.shape[0], 48, 48)
    assert parse({"name": name}).input_shape == facts.shape
    assert (spec.task, spec.outputs, spec.class_names) == ("classification", len(facts.classes), facts.classes)
    assert len(facts.mean) == len(facts.std) == facts.shape[0]
    assert len(set(facts.classes)) == len(facts.classes)


def test_images_know_theirs_from_the_spec_alone() -> None:
    spec = parse(IMAGES)
    assert isinstance(spec, ImagesDataset)
    assert (spec.input_shape, spec.outputs, spec.task) == ((3, 32, 32), 2, "classification")
    assert parse(IMAGES | {"colors": "gray"}).input_shape == (1, 32, 32)


def test_a_table_counts_a_feature_per_number_and_per_category() -> None:
    spec = parse(TABLE | {"features": ["a", {"column": "b"}, {"kind": "yes_no", "column": "f"}, ONE_HOT]})
    assert isinstance(spec, TableDataset)
    assert (spec.input_shape, spec.outputs, spec.task, spec.class_names) == ((6,), 1, "regression", ())
    assert [feature.kind for feature in spec.features] == ["number", "number", "yes_no", "one_hot"]
    classes = parse(TABLE | {"classes": ["u", "v", "w"]})
    assert (classes.outputs, classes.task, classes.class_names) == (3, "classification", ("u", "v", "w"))


@pytest.mark.parametrize(
    "fields", [{"name": "svhn"}, IMAGES, IMAGES | {"test_split": 0.5}, TABLE | {"features": ["a", ONE_HOT]}]
)
def test_a_spec_is_stored_and_read_back_as_it_was(fields: dict[str, Any]) -> None:
    spec = parse(fields)
    assert ADAPTER.validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize("value", [0, 0.0, 0.001, 0.9, "test"])
def test_a_validation_split_is_a_fraction_or_the_test_split(value: float | str) -> None:
    assert parse({"name": "digits", "validation": value}).validation == value


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"name": "imagenet"}, "union_tag_invalid"),
    *(({"name": "digits", "validation": value}, "validation_split") for value in (0.95, -0.1, True, "train", None)),
    ({"name": "digits", "resize": 3}, "greater_than_equal"),
    ({"name": "digits", "folder": "x"}, "extra_forbidden"),
    *((IMAGES | {"folder": folder}, "file_name") for folder in ("..", ".", ".hidden", "a/b", "/etc", "a\\b", "\\a")),
    (IMAGES | {"folder": ""}, "string_too_short"),
    (IMAGES | {"folder": "x" * 201}, "string_too_long"),
    (IMAGES | {"folder": "a\0b"}, "unprintable_text"),
    (IMAGES | {"folder": "a\n"}, "unprintable_text"),
    (IMAGES | {"classes": ["cat"]}, "too_short"),
    (IMAGES | {"classes": ["cat", "dog", "cat"]}, "duplicate"),
    (IMAGES | {"classes": ["cat", " dog"]}, "padded_text"),
    (
        TABLE
        | {
            "features": [ONE_HOT | {"categories": [f"{n}" for n in range(1_000)], "column": f"c{c}"} for c in range(66)]
        },
        "too_long",
    ),
    ({key: value for key, value in IMAGES.items() if key != "resize"}, "missing"),
    (IMAGES | {"resize": 513}, "less_than_equal"),
    (IMAGES | {"colors": "cmyk"}, "literal_error"),
    (IMAGES | {"test_split": 0}, "greater_than_equal"),
    (IMAGES | {"split_seed": -1}, "greater_than_equal"),
    (TABLE | {"file": "../t.csv"}, "file_name"),
    (TABLE | {"features": []}, "too_short"),
    (TABLE | {"features": ["a", "a"]}, "duplicate"),
    (TABLE | {"features": ["a", "y"]}, "duplicate"),
    (TABLE | {"features": [{"kind": "date", "column": "a"}]}, "union_tag_invalid"),
    (TABLE | {"features": [3]}, "model_attributes_type"),
    (TABLE | {"features": [ONE_HOT | {"categories": ["x", "x"]}]}, "duplicate"),
    (TABLE | {"features": [ONE_HOT | {"categories": ["x"]}]}, "too_short"),
    (TABLE | {"classes": ["u"]}, "too_short"),
    (TABLE | {"scaling": "log"}, "literal_error"),
    (TABLE | {"test_split": None}, "float_type"),
]


@pytest.mark.parametrize(("fields", "code"), REFUSED)
def test_what_cannot_be_meant_is_refused(fields: dict[str, Any], code: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        parse(fields)
    assert [error["type"] for error in refusal.value.errors()] == [code]


def test_a_thousand_classes_are_fine_and_no_more() -> None:
    spec = parse(IMAGES | {"classes": [f"class {number}" for number in range(1_000)]})
    assert spec.outputs == 1_000
    with pytest.raises(ValidationError):
        parse(IMAGES | {"classes": [f"class {number}" for number in range(1_001)]})


def listed(name: DatasetName) -> dict[str, str]:
    return {file.name: file.md5 for file in DATASETS[name].files}


def test_files_and_their_md5s_are_those_that_torchvision_lists() -> None:
    known = torchvision.datasets
    assert listed("cifar10") == {known.CIFAR10.filename: known.CIFAR10.tgz_md5}
    assert listed("cifar100") == {known.CIFAR100.filename: known.CIFAR100.tgz_md5}
    assert listed("mnist") == dict(known.MNIST.resources)
    assert listed("fashion_mnist") == dict(known.FashionMNIST.resources)
    assert listed("svhn") == {
        known.SVHN.split_list[split][1]: known.SVHN.split_list[split][2] for split in ("train", "test")
    }


def test_the_classes_of_cifar100_are_in_the_order_of_their_labels() -> None:
    classes = DATASETS["cifar100"].classes
    assert len(classes) == 100
    assert list(classes) == sorted(classes)
    assert list(DATASETS["fashion_mnist"].classes) == known_fashion_classes()


def known_fashion_classes() -> list[str]:
    return list(torchvision.datasets.FashionMNIST.classes)
