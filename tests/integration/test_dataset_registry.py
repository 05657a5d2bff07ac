"""The registry of data sets over HTTP: what each is, where it comes from, where its files go."""

from typing import Any

import pytest

from models.datasets import DATASETS


@pytest.fixture(scope="module")
def idle(start_service: Any) -> Any:
    """A service without workers: nothing here is to be run."""
    return start_service(workers=0)


def test_all_data_sets_are_listed_and_each_is_shown_by_its_name(idle: Any) -> None:
    items = idle.http.get("/datasets").json()["items"]
    assert [item["name"] for item in items] == [*DATASETS, "images", "table"]
    for item in items:
        assert idle.http.get(f"/datasets/{item['name']}").json() == item
        assert item["title"]
        assert item["placing"]


@pytest.mark.parametrize("name", list(DATASETS))
def test_a_data_set_by_name_has_all_its_facts(idle: Any, name: Any) -> None:
    shown, facts = idle.http.get(f"/datasets/{name}").json(), DATASETS[name]
    assert (shown["title"], shown["source"], shown["licence"]) == (facts.title, facts.source, facts.licence)
    assert shown["task"] == "classification"
    assert shown["shape"] == list(facts.shape)
    assert shown["classes"] == list(facts.classes)
    assert shown["samples"] == {"train": facts.train_samples, "test": facts.test_samples}
    assert shown["normalization"] == {"mean": list(facts.mean), "std": list(facts.std)}
    assert shown["files"] == [{"name": file.name, "md5": file.md5} for file in facts.files]
    assert all(len(file["md5"]) == 32 for file in shown["files"])


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion_mnist", "svhn"])
def test_what_is_not_bundled_says_where_its_files_go(idle: Any, name: str) -> None:
    assert f"<datasets>/{name}/" in idle.http.get(f"/datasets/{name}").json()["placing"]


def test_data_of_ones_own_say_where_files_go_and_what_the_spec_names(idle: Any) -> None:
    images, table = (idle.http.get(f"/datasets/{name}").json() for name in ("images", "table"))
    assert (images["task"], table["task"]) == ("classification", None)
    assert "<datasets>/images/<folder>/train/<class>/" in images["placing"]
    assert "<datasets>/tables/<file>" in table["placing"]
    for shown in (images, table):
        assert {shown[fact] for fact in ("shape", "classes", "samples", "source", "licence")} == {None}
        assert shown["files"] == []


def test_every_example_is_the_data_set_of_a_good_spec(idle: Any) -> None:
    for item in idle.http.get("/datasets").json()["items"]:
        answer = idle.http.post("/jobs:validate", json={"dataset": item["example"], "network": {"name": "mlp"}})
        assert answer.status_code == 200, answer.text
        assert item["shape"] in (None, answer.json()["input_shape"])


def test_an_unknown_data_set_is_a_problem(idle: Any) -> None:
    for name in ("imagenet", "CIFAR10", "digits.csv", "x" * 5_000):
        answer = idle.http.get(f"/datasets/{name}")
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] in {"dataset_not_found", "not_found"}
