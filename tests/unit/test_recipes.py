"""The recipes: all reference runs, held to their table, and how a body is merged with one."""

import csv
import json
import re
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from models.errors import InvalidRecipe, InvalidSpec, RecipeNotFound
from models.recipes import Recipe, all_recipes, expand, get, read_recipes
from models.spec import JobSpec

SHARED = Path(__file__).parents[3] / "shared"
# Parameters and MACs per sample; the networks of the last two are ours, so nothing is published for them.
COUNTS: dict[str, tuple[int, int] | None] = {
    "lenet": (62_006, 651_720),
    "lenet-dropout": (62_006, 651_720),
    "lenet-dropout-bn": (62_018, 651_720),
    "cnn2-tanh": (18_354, 753_984),
    "cnn3-tanh": (4_310, 758_080),
    "resnet10-bn": (76_074, 24_543_552),
    "cnn2-wide-l2": (38_650, 2_097_472),
    "cnn2-wide-dropout": (38_650, 2_097_472),
    "cnn2-wide-bn": (38_746, 2_097_472),
    "cnn2-relu": (38_650, 2_097_472),
    "cnn3-relu": (11_138, 2_142_528),
    "resnet10": (76_042, 24_543_552),
    "resnet10-l2": (76_042, 24_543_552),
    "resnet10-dropout": (76_042, 24_543_552),
    "resnet10-bn-after-relu": (76_138, 24_543_552),
    "mlp-512": (1_578_506, 1_577_984),
    "mlp-512-256-128": (1_738_890, 1_737_984),
    "mlp-512-1024-256": (2_363_658, 2_361_856),
    "housing-8": (57, 48),
    "housing-256-128-64": (42_753, 42_304),
    "housing-8-32-10": (677, 626),
    "two-cnns-small": None,
    "two-cnns-large": None,
}
RECIPES = [pytest.param(recipe, id=name) for name, recipe in all_recipes().items()]


def spec_of(name: str) -> dict[str, Any]:
    """Return the recipe's spec with every default, as it is merged with."""
    return get(name).spec.as_json()


def rows_of_the_table() -> dict[str, dict[str, str]]:
    """Return tables A and B by id, each row with its cells by the name of their column."""
    rows: dict[str, dict[str, str]] = {}
    header: list[str] = []
    for line in (SHARED / "reference-runs.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] == "id":
            header = cells
        elif cells[0] in COUNTS:
            rows[cells[0]] = dict(zip(header, cells, strict=True))
    return rows


def figures_in(reported: str) -> set[float]:
    """Return the numbers that were reported, accuracies as fractions, times in seconds; not what is put in quotes."""
    said = re.sub(r"'[^']*'|\([^)]*\)|\d+ s for the [^;]*;", "", reported.replace(",", ""))
    hours = {3600.0 * int(h) + 60 * int(m) for h, m in re.findall(r"(\d+) h (\d+) min", said)}
    said = re.sub(r"\d+ h \d+ min", "", said)
    percents = {round(float(number) / 100, 6) for number in re.findall(r"([\d.]+) %", said)}
    return hours | percents | {float(number) for number in re.findall(r"[\d.]+(?![\d.]* %)", said)}


def published(recipe: Recipe) -> set[float]:
    """Return the figures of the recipe's reference, but for the counts."""
    figures = recipe.reference.model_dump(exclude={"parameters", "macs_per_sample", "curve", "note"}, exclude_none=True)
    figures |= figures.pop("test_accuracy", {})
    return set(figures.values())


def test_every_reference_run_is_a_recipe_and_there_are_no_others() -> None:
    assert set(all_recipes()) == set(COUNTS)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_can_be_run_and_has_the_counts_of_the_table(recipe: Recipe) -> None:
    summary = recipe.spec.resolved().summary()
    assert summary is not None
    counts = COUNTS[recipe.name]
    if counts is None:
        assert (recipe.reference.parameters, recipe.reference.macs_per_sample) == (None, None)
    else:
        assert (summary.parameters, summary.macs) == counts
        assert (recipe.reference.parameters, recipe.reference.macs_per_sample) == counts


@pytest.mark.skipif(not (SHARED / "reference-runs.md").exists(), reason="the page of reference runs is not at hand")
def test_every_recipe_says_what_its_row_says() -> None:
    rows = rows_of_the_table()
    assert set(rows) == {name for name, counts in COUNTS.items() if counts is not None}
    for name, row in rows.items():
        recipe = get(name)
        training = recipe.spec.training
        assert (int(row["params"].replace(",", "")), int(row["MACs"].replace(",", ""))) == COUNTS[name]
        assert training.epochs == int(row["epochs"])
        assert row["batch"] == "all rows" or training.batch_size == int(row["batch"])
        assert row["lr"] == "-" or training.optimizer.learning_rate == float(row["lr"].removesuffix(" SGD"))
        assert training.l2_penalty == (0.001 if "squared weights" in row.get("extra", "") else 0)
        (reported,) = (cell for column, cell in row.items() if column.startswith("reported"))
        assert published(recipe) == figures_in(reported), name


@pytest.mark.parametrize("name", [name for name, recipe in all_recipes().items() if recipe.reference.curve])
def test_a_published_curve_ends_with_the_published_figures(name: str) -> None:
    recipe = get(name)
    reference, curve = recipe.reference, recipe.reference.curve
    assert curve is not None
    loss = reference.train_loss or reference.train_loss_with_penalty
    assert (curve.epoch[-1], curve.epoch) == (recipe.spec.training.epochs, sorted(set(curve.epoch)))
    assert loss == pytest.approx(curve.train_loss[-1], abs=0.0006)
    if curve.validation_accuracy and curve.validation_accuracy[-1] is not None:
        assert reference.test_accuracy is not None
        assert reference.test_accuracy.last == pytest.approx(curve.validation_accuracy[-1], abs=0.0001)


@pytest.mark.skipif(not (SHARED / "data").exists(), reason="the published curves are not at hand")
def test_the_published_curves_are_those_of_the_recipes() -> None:
    published: dict[str, list[dict[str, str]]] = {}
    with (SHARED / "data" / "published-curves.csv").open() as file:
        for row in csv.DictReader(file):
            published.setdefault(row.pop("run"), []).append(row)
    ours = {name: recipe.reference.curve for name, recipe in all_recipes().items() if recipe.reference.curve}
    assert set(ours) == set(published)
    for name, rows in published.items():
        for figure in rows[0]:
            numbers = [float(row[figure]) if row[figure] else None for row in rows]
            assert (getattr(ours[name], figure) or [None] * len(rows)) == numbers, (name, figure)


def test_residual_blocks_share_their_weights_as_in_the_write_ups() -> None:
    networks = [recipe.spec.network for recipe in all_recipes().values() if recipe.spec.network.name == "resnet"]
    assert len(networks) == 5
    for network in networks:
        assert network.model_dump()["share_weights"] is True


def test_a_recipe_leaves_the_seed_open_so_that_replicas_differ() -> None:
    assert {recipe.spec.training.seed for recipe in all_recipes().values()} == {None}


def test_a_loss_with_a_penalty_in_it_is_named_as_such() -> None:
    for recipe in all_recipes().values():
        penalised = recipe.spec.training.l2_penalty > 0
        assert (recipe.reference.train_loss_with_penalty is not None) == penalised
        assert not (penalised and recipe.reference.train_loss is not None)


def test_a_regression_has_no_accuracy_among_its_figures() -> None:
    regressions = [recipe for recipe in all_recipes().values() if recipe.spec.dataset.task == "regression"]
    assert {recipe.name for recipe in regressions} == {"housing-8", "housing-256-128-64", "housing-8-32-10"}
    for recipe in regressions:
        assert recipe.reference.train_accuracy is None
        assert recipe.reference.test_accuracy is None


def test_a_recipe_alone_is_its_spec_under_its_name() -> None:
    assert expand({"recipe": "lenet"}) == spec_of("lenet") | {"recipe": "lenet"}


def test_objects_are_merged_and_the_rest_of_the_recipe_stays() -> None:
    spec = expand({"recipe": "resnet10-l2", "name": "short", "training": {"epochs": 3, "optimizer": {"momentum": 0.9}}})
    expected = deepcopy(spec_of("resnet10-l2")) | {"recipe": "resnet10-l2", "name": "short"}
    expected["training"]["epochs"] = 3
    expected["training"]["optimizer"]["momentum"] = 0.9
    assert spec == expected


def test_lists_and_null_replace() -> None:
    spec = expand({"recipe": "housing-8", "dataset": {"features": ["area"]}, "training": {"seed": 5}, "tags": ["a"]})
    assert spec["dataset"] == spec_of("housing-8")["dataset"] | {"features": ["area"]}
    assert (spec["training"]["seed"], spec["tags"]) == (5, ["a"])
    resized = expand({"recipe": "lenet", "dataset": {"resize": None}, "resources": None})
    assert (resized["dataset"], resized["resources"]) == (spec_of("lenet")["dataset"], None)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("network", {"name": "mlp"}),
        ("dataset", {"name": "digits"}),
        ("training.optimizer", {"name": "adam"}),
        ("training.schedule", {"name": "cosine"}),
    ],
)
def test_an_object_of_another_kind_replaces_the_recipes_whole(field: str, change: dict[str, Any]) -> None:
    body: dict[str, Any] = change
    for part in reversed(field.split(".")):
        body = {part: body}
    merged = expand({"recipe": "lenet"} | body)
    for part in field.split("."):
        merged = merged[part]
    assert merged == change


def test_an_object_of_the_same_kind_is_merged_also_where_it_says_so() -> None:
    optimizer = {"name": "sgd", "momentum": 0.9}
    spec = expand({"recipe": "resnet10", "training": {"optimizer": optimizer}})
    assert spec["training"]["optimizer"] == spec_of("resnet10")["training"]["optimizer"] | optimizer


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_stored_spec_can_be_posted_again_and_stays_as_it_is(recipe: Recipe) -> None:
    body = {"recipe": recipe.name, "network": {"name": "mlp", "hidden": [4]}, "training": {"augmentation": None}}
    stored = JobSpec.model_validate(expand(body)).resolved().as_json()
    assert JobSpec.model_validate(expand(json.loads(json.dumps(stored)))).as_json() == stored


def test_merging_changes_neither_the_recipe_nor_the_body() -> None:
    body = {"recipe": "lenet", "training": {"epochs": 3, "optimizer": {"momentum": 0.5}}}
    before, sent = spec_of("lenet"), deepcopy(body)
    spec = expand(body)
    spec["training"]["optimizer"]["momentum"] = 0.7
    spec["network"]["dropout"] = 0.1
    assert body == sent
    assert spec_of("lenet") == before


@pytest.mark.parametrize("body", [{}, {"dataset": {"name": "digits"}}, {"recipe": None}, {"recipe": 5}, [], None, "x"])
def test_what_names_no_recipe_is_left_as_it_is(body: Any) -> None:
    assert expand(deepcopy(body)) == body


def test_an_unknown_recipe_is_answered_with_the_names_nearest_to_it() -> None:
    with pytest.raises(RecipeNotFound, match=r"There is no recipe 'lenett'; there is lenet, lenet-dropout\."):
        get("lenett")
    with pytest.raises(InvalidSpec) as refused:
        expand({"recipe": "../etc/passwd"})
    ((error),) = refused.value.errors
    assert (error.loc, error.code) == ("recipe", "unknown_recipe")
    assert "lenet" in error.message, "where no name is near, all are said"


def test_a_name_of_any_length_is_quoted_in_part() -> None:
    with pytest.raises(RecipeNotFound) as refused:
        get("x" * 100_000)
    assert len(str(refused.value)) < 1_000


GOOD = """
title: A title
description: A description
spec: {dataset: {name: digits}, network: {name: mlp}}
reference: {parameters: 1}
"""
BAD_FILES = [
    ("{", "is not valid YAML"),
    ("", "Input should be a valid dictionary"),
    ("- a\n- b\n", "Input should be a valid dictionary"),
    (GOOD.replace("title: A title", ""), "title: Field required"),
    (GOOD + "colour: red\n", "colour: Extra inputs are not permitted"),
    (GOOD.replace("name: mlp", "name: mlp, dropout: 2"), "spec.network.dropout: Input should be less than 1"),
    (GOOD.replace("name: digits", "name: imagenet"), "spec.dataset.name: "),
    (GOOD.replace("name: mlp", "name: lenet"), "spec.network: layer 3 (conv2d) does not fit"),
    (GOOD.replace("{parameters: 1}", "{test_accuracy: {last: 64}}"), "reference.test_accuracy.last: "),
    (GOOD.replace("{parameters: 1}", "{train_loss: 1e-2}"), "reference.train_loss: Input should be a valid number"),
]


@pytest.mark.parametrize(("content", "sentence"), BAD_FILES)
def test_a_bad_file_is_refused_with_its_name_and_the_field(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "first.yaml").write_text(GOOD)
    assert set(read_recipes(tmp_path)) == {"first"}
    (tmp_path / "second.yaml").write_text(content)
    with pytest.raises(InvalidRecipe) as refused:
        read_recipes(tmp_path)
    assert "second.yaml" in str(refused.value)
    assert sentence in str(refused.value)


def test_a_folder_without_recipes_is_refused_too(tmp_path: Path) -> None:
    with pytest.raises(InvalidRecipe, match="holds no recipes"):
        read_recipes(tmp_path)


def test_the_api_ends_at_its_start_with_one_line_on_a_bad_recipe(tmp_path: Path) -> None:
    (tmp_path / "lenet.yaml").write_text(GOOD.replace("mlp", "perceptron"))
    start = f"import pathlib, models.recipes; models.recipes._FOLDER = pathlib.Path({str(tmp_path)!r}); "
    command = [sys.executable, "-c", start + "from api.__main__ import main; main()"]
    environment = {"TRAINYARD_ENVIRONMENT": "development"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"recipes: {tmp_path / 'lenet.yaml'}: spec.network.name: ")
