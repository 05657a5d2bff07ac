"""Recipes: job specs by name, one file each, with the figures published for the run that each repeats."""

import difflib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from models.errors import FieldError, InvalidRecipe, InvalidSpec, RecipeNotFound
from models.spec import JobSpec
from models.validation import Name, Strict, field_path

_FOLDER = Path(__file__).resolve().parent.parent / "recipes"
_DISCRIMINATORS = ("name", "kind")
_LONGEST_QUOTE = 64

Text = Annotated[str, Field(min_length=1, max_length=2_000)]
Accuracy = Annotated[float, Field(ge=0, le=1)]
Loss = Annotated[float, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0)]
Point = TypeVar("Point")
Points = Annotated[list[Point], Field(min_length=1, max_length=1_000)]


class PublishedAccuracy(Strict):
    """Accuracies as fractions, of the best, the worst and the last epoch."""

    best: Accuracy | None = None
    worst: Accuracy | None = None
    last: Accuracy | None = None


class PublishedCurve(Strict):
    """The epochs that were printed, and one entry for each of them in every list; null where none was printed."""

    epoch: Points[int]
    train_loss: Points[float]
    validation_loss: Points[float | None] | None = None
    train_accuracy: Points[float | None] | None = None
    validation_accuracy: Points[float | None] | None = None

    @model_validator(mode="after")
    def _lists_are_equally_long(self) -> "PublishedCurve":
        if len({len(values) for _, values in self if values is not None}) > 1:
            raise PydanticCustomError("curve", "The lists of a curve need one entry for each epoch")
        return self


class Reference(Strict):
    """What was published of a run; null where nothing was. Parameters and MACs were computed independently of it."""

    parameters: Annotated[int, Field(ge=1)] | None = None
    macs_per_sample: Annotated[int, Field(ge=1)] | None = None
    training_seconds: Seconds | None = None
    seconds_per_sample: Seconds | None = Field(default=None, description="Of a prediction at batch size 1.")
    train_loss: Loss | None = Field(default=None, description="Of the last epoch, without any penalty.")
    train_loss_with_penalty: Loss | None = Field(
        default=None, description="Of the last epoch, with the penalty added to it: not to be compared with others."
    )
    train_accuracy: Accuracy | None = Field(default=None, description="Of the last epoch.")
    test_accuracy: PublishedAccuracy | None = None
    note: Text | None = None
    curve: PublishedCurve | None = None


class Recipe(Strict):
    """A job spec with a name, and the figures published for it."""

    name: Name
    title: Name
    description: Text
    spec: JobSpec
    reference: Reference


@cache
def all_recipes() -> Mapping[str, Recipe]:
    """Return the recipes by name, in alphabetical order; raise InvalidRecipe naming file and field."""
    return read_recipes(_FOLDER)


def read_recipes(folder: Path) -> Mapping[str, Recipe]:
    """Return the recipe in each `<name>.yaml` of a folder, by name; raise InvalidRecipe naming file and field."""
    paths = sorted(folder.glob("*.yaml"), key=lambda path: path.stem)
    if not paths:
        raise InvalidRecipe(f"{folder} holds no recipes.")
    return {path.stem: _read(path) for path in paths}


def get(name: str) -> Recipe:
    """Return a recipe; raise RecipeNotFound with the names nearest to the one that was asked for."""
    recipes = all_recipes()
    if name in recipes:
        return recipes[name]
    asked = name[:_LONGEST_QUOTE]
    nearest = difflib.get_close_matches(asked, recipes) or list(recipes)
    raise RecipeNotFound(f"There is no recipe {asked!r}; there is {', '.join(nearest)}.")


def expand(body: Any) -> Any:
    """Return a job spec, as it was sent, with its recipe's fields under its own.

    It keeps the recipe's name while network and data set are the recipe's: another network's figures are not to be
    put beside those of the recipe. Objects are merged field by field, everything else replaces: lists, numbers, texts
    and null. An object whose `name` or `kind` is another than the recipe's replaces it whole. What names no recipe is
    returned as it is. Raises InvalidSpec where there is no such recipe.
    """
    if not isinstance(body, dict) or not isinstance(body.get("recipe"), str):
        return body
    try:
        recipe = get(body["recipe"])
    except RecipeNotFound as error:
        raise InvalidSpec([FieldError("recipe", str(error), "unknown_recipe")]) from None
    spec = recipe.spec.as_json()
    merged = spec | {field: _merged(spec.get(field), value) for field, value in body.items()}
    is_it = merged["network"] == spec["network"] and _same_data(merged["dataset"], spec["dataset"])
    return merged if is_it else merged | {"recipe": None}


def _same_data(dataset: Any, recipes: dict[str, Any]) -> bool:
    """Tell whether it is the recipe's data set; how a validation split is cut out of it may differ."""
    return isinstance(dataset, dict) and dataset | {"validation": recipes["validation"]} == recipes


def _merged(base: Any, change: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    if any(change.get(tag, base.get(tag)) != base.get(tag) for tag in _DISCRIMINATORS):
        return change
    return base | {field: _merged(base.get(field), value) for field, value in change.items()}


def _read(path: Path) -> Recipe:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidRecipe(f"{path} is not valid YAML: {error}") from None
    try:
        recipe = Recipe.model_validate(content | {"name": path.stem} if isinstance(content, dict) else content)
        recipe.spec.resolved()
    except ValidationError as error:
        problems = [f"{field_path(entry, entry['loc'], content)}: {entry['msg']}" for entry in error.errors()]
    except InvalidSpec as error:
        problems = [f"spec.{field.loc}: {field.message}" for field in error.errors]
    else:
        return recipe
    raise InvalidRecipe(f"{path}: {'; '.join(problems)}")
