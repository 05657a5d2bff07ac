"""The routes of recipes: all of them in short, and each whole."""

from fastapi import APIRouter

from api.problems import Problem
from api.recipes.schemas import RecipeList, RecipeSummary, RecipeView
from models import recipes

router = APIRouter(tags=["recipes"])


@router.get("/recipes")
async def list_recipes() -> RecipeList:
    """List the recipes: job specs that repeat published runs, each with the figures published for it."""
    return RecipeList(items=[RecipeSummary.of(recipe) for recipe in recipes.all_recipes().values()])


@router.get("/recipes/{name}", responses={404: {"model": Problem}})
async def get_recipe(name: str) -> RecipeView:
    """Show a recipe; `{"recipe": name}` as the body of `POST /jobs` runs it, with changes to any of its fields."""
    return RecipeView.of(recipes.get(name))
