"""Recipes over HTTP: the list, each whole, a job from one with changes, and the housing runs in full."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.jobs import DIGITS_MLP
from models.recipes import all_recipes

HOUSING = Path(__file__).parents[3] / "shared" / "data" / "Housing.csv"


@pytest.fixture(scope="module")
def idle(start_service: Any) -> Any:
    """A service without workers: nothing here is to be run."""
    return start_service(workers=0)


@pytest.fixture(scope="module")
def with_housing(start_service: Any, digits_cache: Path) -> Any:
    """A service whose workers find the table of house prices."""
    (digits_cache / "tables").mkdir(exist_ok=True)
    shutil.copy(HOUSING, digits_cache / "tables")
    return start_service(slots=2)


def test_all_recipes_are_listed_with_their_counts_and_figures(idle: Any) -> None:
    items = idle.http.get("/recipes").json()["items"]
    assert [item["name"] for item in items] == list(all_recipes())
    (resnet,) = (item for item in items if item["name"] == "resnet10")
    assert (resnet["task"], resnet["dataset"], resnet["network"]) == ("classification", "cifar10", "resnet")
    assert (resnet["parameters"], resnet["macs_per_sample"]) == (76_042, 24_543_552)
    assert resnet["reference"]["train_loss"] == 0.4046
    assert resnet["reference"]["test_accuracy"] == {"best": None, "worst": None, "last": 0.6435}
    (housing,) = (item for item in items if item["name"] == "housing-8")
    assert (housing["task"], housing["dataset"], housing["network"]) == ("regression", "table", "mlp")
    assert "no accuracy" in housing["reference"]["note"]


def test_a_recipe_is_shown_whole_and_what_is_shown_can_be_posted(idle: Any) -> None:
    for item in idle.http.get("/recipes").json()["items"]:
        recipe = idle.http.get(f"/recipes/{item['name']}").json()
        assert {field: recipe[field] for field in item} == item | {
            "reference": item["reference"] | {"curve": recipe["reference"]["curve"]}
        }
        assert recipe["description"]
        validated = idle.http.post("/jobs:validate", json=recipe["spec"])
        assert validated.status_code == 200, validated.text
        counted = validated.json()
        assert (counted["parameters"], counted["macs_per_sample"]) == (recipe["parameters"], recipe["macs_per_sample"])
        assert (counted["input_shape"], counted["output_shape"]) == (recipe["input_shape"], recipe["output_shape"])
        counted["spec"]["training"]["seed"] = None
        assert counted["spec"] == recipe["spec"], "every default is filled in"


@pytest.mark.parametrize("name", ["resnet11", "lenet.yaml", "..%2Frecipes%2Flenet", "LENET", "%00", "x" * 5_000])
def test_an_unknown_recipe_is_a_problem(idle: Any, name: str) -> None:
    answer = idle.http.get(f"/recipes/{name}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] in {"recipe_not_found", "not_found"}


def test_a_job_from_a_recipe_stores_the_merged_spec_under_the_recipes_name(idle: Any) -> None:
    body = {"recipe": "resnet10-l2", "name": "short", "training": {"epochs": 3}}
    job = idle.job(idle.submit(body))
    expected = idle.http.get("/recipes/resnet10-l2").json()["spec"] | {"name": "short"}
    expected["training"] |= {"epochs": 3, "seed": job["spec"]["training"]["seed"]}
    assert job["spec"] == expected
    assert job["spec"]["recipe"] == "resnet10-l2"
    assert job["spec"]["training"]["l2_penalty"] == 0.001
    assert job["progress"] == {"epoch": 0, "epochs": 3}
    assert isinstance(job["spec"]["training"]["seed"], int)


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, True),
        ({"dataset": {"validation": 0.1}}, True),
        ({"training": {"batch_size": 32}}, True),
        ({"network": {"dropout": 0.5}}, False),
        ({"network": {"name": "mlp"}}, False),
        ({"dataset": {"name": "svhn"}}, False),
    ],
)
def test_another_network_or_data_set_does_not_go_under_the_recipes_name(
    idle: Any, changes: dict[str, Any], kept: bool
) -> None:
    answer = idle.http.post("/jobs:validate", json={"recipe": "lenet"} | changes)
    assert answer.status_code == 200
    assert answer.json()["spec"]["recipe"] == ("lenet" if kept else None)


def test_a_job_without_a_recipe_has_none(idle: Any) -> None:
    spec = DIGITS_MLP
    assert idle.http.post("/jobs:validate", json=spec).json()["spec"]["recipe"] is None


def test_a_recipe_is_validated_with_its_changes_and_nothing_is_stored(idle: Any) -> None:
    before = idle.rows("SELECT count(*) AS n FROM jobs")
    body = {"recipe": "cnn2-relu", "dataset": {"name": "digits"}, "network": {"channels": [8]}}
    validated = idle.http.post("/jobs:validate", json=body).json()
    assert validated["spec"]["dataset"] == {"name": "digits", "validation": 0.1, "resize": None}
    assert validated["spec"]["network"]["hidden"] == [32]
    assert validated["spec"]["network"]["channels"] == [8]
    assert idle.rows("SELECT count(*) AS n FROM jobs") == before


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"recipe": "resnet10-bn", "network": {"batch_norm": None}}, "network", "conflict"),
    ({"recipe": "lenett"}, "recipe", "unknown_recipe"),
    ({"recipe": ""}, "recipe", "unknown_recipe"),
    ({"recipe": "nul\x00"}, "recipe", "unknown_recipe"),
    ({"recipe": 5}, "recipe", "string_type"),
    ({"recipe": ["lenet"]}, "recipe", "string_type"),
    ({"recipe": None}, "dataset", "missing"),
    ({"recipe": "lenet", "datset": {}}, "datset", "extra_forbidden"),
    ({"recipe": "lenet", "dataset": None}, "dataset", "object_type"),
    ({"recipe": "lenet", "dataset": {"resize": 28}}, "network", "layer_does_not_fit"),
    ({"recipe": "lenet", "dataset": {"name": "images"}}, "dataset.folder", "missing"),
    ({"recipe": "lenet", "network": {"dropout": 1.0}}, "network.dropout", "less_than"),
    ({"recipe": "lenet", "network": {"hidden": [64]}}, "network.hidden", "extra_forbidden"),
    ({"recipe": "lenet", "network": {"name": "lenet9"}}, "network.name", "literal_error"),
    ({"recipe": "lenet", "training": {"epochs": "3"}}, "training.epochs", "int_type"),
    ({"recipe": "lenet", "training": 3}, "training", "object_type"),
    (
        {"recipe": "lenet", "training": {"optimizer": {"momentum": 1.0}}},
        "training.optimizer.momentum",
        "less_than",
    ),
    (
        {"recipe": "lenet", "training": {"optimizer": {"name": "adam", "momentum": 0.9}}},
        "training.optimizer.momentum",
        "extra_forbidden",
    ),
    ({"recipe": "lenet", "training": {"optimizer": {"nesterov": True}}}, "training.optimizer.nesterov", "conflict"),
    ({"recipe": "lenet", "training": {"schedule": {"name": "step"}}}, "training.schedule.every", "missing"),
    ({"recipe": "housing-8", "dataset": {"target": "area"}}, "dataset", "duplicate"),
    ({"recipe": "housing-8", "dataset": {"features": ["area", {}]}}, "dataset.features.1.column", "missing"),
    ({"recipe": "housing-8", "dataset": {"features": ["x" * 201]}}, "dataset.features.0", "string_too_long"),
    (
        {"recipe": "two-cnns-small", "network": {"layers": [{"kind": "conv2d", "out_channels": 4}]}},
        "network.layers.0.kernel_size",
        "missing",
    ),
]


@pytest.mark.parametrize("path", ["/jobs", "/jobs:validate"])
@pytest.mark.parametrize(("body", "loc", "code"), BAD)
def test_a_bad_change_of_a_recipe_is_refused_at_its_field(
    idle: Any, body: dict[str, Any], loc: str, code: str, path: str
) -> None:
    answer = idle.http.post(path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_spec"), answer.text
    assert (loc, code) in [(error["loc"], error["code"]) for error in answer.json()["errors"]]


def test_the_documentation_shows_both_kinds_of_bodies(idle: Any) -> None:
    document = idle.http.get("/openapi.json").json()
    for path in ("/jobs", "/jobs:validate"):
        body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        whole, from_recipe = body["anyOf"]
        assert whole == {"$ref": "#/components/schemas/JobSpec"}
        assert from_recipe["required"] == ["recipe"]
        assert from_recipe["properties"]["recipe"]["enum"] == list(all_recipes())
    assert set(document["components"]["schemas"]["JobSpec"]["required"]) == {"dataset", "network"}


@pytest.mark.skipif(not HOUSING.exists(), reason="Housing.csv is not at hand")
@pytest.mark.parametrize("name", ["housing-8", "housing-256-128-64", "housing-8-32-10"])
def test_a_housing_recipe_runs_in_full_and_is_judged_by_its_errors(with_housing: Any, name: str) -> None:
    job_id = with_housing.submit({"recipe": name, "training": {"seed": 1}})
    job = with_housing.wait_for_end(job_id)
    assert job["status"] == "succeeded", (job["message"], with_housing.http.get(f"/jobs/{job_id}/logs").text)
    result = with_housing.http.get(f"/jobs/{job_id}/result").json()
    recipe = all_recipes()[name]
    assert result["spec"]["recipe"] == name
    assert result["parameters"]["total"] == recipe.reference.parameters
    assert result["macs_per_sample"] == recipe.reference.macs_per_sample
    assert (result["task"], result["accuracy"]) == ("regression", None)
    samples = {split: counts["samples"] for split, counts in result["dataset"]["splits"].items() if counts}
    assert samples == {"train": 436, "test": 109}
    losses = result["curves"]["train_loss"]
    assert len(losses) == recipe.spec.training.epochs
    assert losses[-1] < losses[0]
    assert result["regression"]["original"]["train"]["r2"] == pytest.approx(
        result["regression"]["scaled"]["train"]["r2"], rel=1e-6
    )
