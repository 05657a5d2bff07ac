"""The routes of data sets: all of them, and each by its name."""

from fastapi import APIRouter

from api.access.caller import ReaderDep
from api.codes import answers
from api.datasets.registry import REGISTRY
from api.datasets.schemas import DatasetList, DatasetView
from api.strict_json import StrictRoute
from models.errors import DatasetNotFound

router = APIRouter(tags=["datasets"], route_class=StrictRoute)


@router.get("/datasets")
async def list_datasets(caller: ReaderDep) -> DatasetList:
    """List the data sets that a job can name: shapes, classes, counts, where they come from, where files go."""
    return DatasetList(items=list(REGISTRY.values()))


@router.get("/datasets/{name}", responses=answers("dataset_not_found"))
async def get_dataset(name: str, caller: ReaderDep) -> DatasetView:
    """Show a data set; `images` and `table` are data of one's own."""
    if name not in REGISTRY:
        raise DatasetNotFound(f"There is no data set of this name; there is {', '.join(REGISTRY)}.")
    return REGISTRY[name]
