"""The routes of data sets: all of them, and each by its name."""

from fastapi import APIRouter

from api.datasets.registry import REGISTRY
from api.datasets.schemas import DatasetList, DatasetView
from api.problems import Problem
from models.errors import DatasetNotFound

router = APIRouter(tags=["datasets"])


@router.get("/datasets")
async def list_datasets() -> DatasetList:
    """List the data sets that a job can name: shapes, classes, counts, where they come from, where files go."""
    return DatasetList(items=list(REGISTRY.values()))


@router.get("/datasets/{name}", responses={404: {"model": Problem}})
async def get_dataset(name: str) -> DatasetView:
    """Show a data set; `images` and `table` are data of one's own."""
    if name not in REGISTRY:
        raise DatasetNotFound(f"There is no data set of this name; there is {', '.join(REGISTRY)}.")
    return REGISTRY[name]
