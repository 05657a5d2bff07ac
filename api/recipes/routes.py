"""The routes of recipes: all of them in short, and each whole."""

from fastapi import APIRouter

from api.access.caller import ReaderDep
from api.codes import answers
from api.recipes.schemas import RecipeList, RecipeSummary, RecipeView
from api.strict_json import StrictRoute
from models import recipes

router = APIRouter(tags=["recipes"], route_class=StrictRoute)


@router.get("/recipes")
async def list_recipes(caller: ReaderDep) -> RecipeList:
    """List the recipes: job specs that repeat published runs, each with the figures published for it."""
    return RecipeList(items=[RecipeSummary.of(recipe) for recipe in recipes.all_recipes().values()])


@router.get("/recipes/{name}", responses=answers("recipe_not_found"))
async def get_recipe(name: str, caller: ReaderDep) -> RecipeView:
    """Show a recipe; `{"recipe": name}` as the body of `POST /jobs` runs it, with changes to any of its fields."""
    return RecipeView.of(recipes.get(name))
