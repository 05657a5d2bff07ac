"""What the API shows of a recipe, and a job's body that may start from one."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from models.datasets import Task
from models.recipes import Recipe, Reference, all_recipes, expand
from models.spec import JobSpec


class RecipeSummary(BaseModel):
    """A recipe in a list; parameters are counted once each, MACs per sample. Its curve is in the recipe itself."""

    name: str
    title: str
    task: Task
    dataset: str
    network: str
    parameters: int | None
    macs_per_sample: int | None
    reference: Reference

    @classmethod
    def of(cls, recipe: Recipe) -> "RecipeSummary":
        """Show a recipe in a list."""
        return cls(**_short(recipe) | {"reference": recipe.reference.model_copy(update={"curve": None})})


class RecipeView(RecipeSummary):
    """A whole recipe: its spec has every default filled in."""

    description: str
    input_shape: list[int]
    output_shape: list[int]
    spec: dict[str, Any]

    @classmethod
    def of(cls, recipe: Recipe) -> "RecipeView":
        """Show a whole recipe."""
        dataset = recipe.spec.dataset
        return cls(
            **_short(recipe),
            description=recipe.description,
            input_shape=list(dataset.input_shape),
            output_shape=[dataset.outputs],
            spec=recipe.spec.as_json() | {"recipe": recipe.name},
        )


class RecipeList(BaseModel):
    """All recipes, in alphabetical order."""

    items: list[RecipeSummary]


def _short(recipe: Recipe) -> dict[str, Any]:
    spec, counted = recipe.spec, recipe.spec.summary()
    return {
        "name": recipe.name,
        "title": recipe.title,
        "task": spec.dataset.task,
        "dataset": spec.dataset.name,
        "network": spec.network.name,
        "parameters": counted.parameters if counted else None,
        "macs_per_sample": counted.macs if counted else None,
        "reference": recipe.reference,
    }


class _WholeOrFromRecipe:
    """Documents the body as one of two: a whole job spec, or a recipe's name and what is to differ from its spec."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        changes = {field: {"type": "object"} for field in ("dataset", "network", "training", "resources")}
        from_recipe = {
            "title": "FromRecipe",
            "description": "A recipe, and the fields of a JobSpec that are to differ from the recipe's. Objects are "
            "merged field by field; lists and single values replace the recipe's, as does an object with another "
            "`name` or `kind`.",
            "type": "object",
            "properties": {"recipe": {"enum": list(all_recipes())}, **changes},
            "required": ["recipe"],
            "additionalProperties": True,
        }
        return {"anyOf": [handler(schema), from_recipe]}


SubmittedSpec = Annotated[JobSpec, BeforeValidator(expand), _WholeOrFromRecipe()]
