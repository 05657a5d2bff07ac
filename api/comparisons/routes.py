"""The route that compares jobs."""

import asyncio
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from api.access.caller import ReaderDep
from api.codes import answers
from api.comparisons import queries
from api.comparisons.comparison import compare
from api.comparisons.rows import Row
from api.comparisons.schemas import ComparedCurves, Comparison
from api.query_names import takes
from api.services import ServicesDep
from api.strict_json import StrictRoute

router = APIRouter(
    tags=["comparison"],
    route_class=StrictRoute,
)

MAX_JOBS = 50
MAX_POINTS = 1_000


def _distinct(jobs: list[UUID]) -> list[UUID]:
    seen: set[UUID] = set()
    for job in jobs:
        if job in seen:
            raise PydanticCustomError("duplicate", "Job {job} is named twice", {"job": str(job)})
        seen.add(job)
    return jobs


_Jobs = Annotated[
    list[UUID],
    Query(min_length=2, max_length=MAX_JOBS, description="Repeat it: `?job=<id>&job=<id>`"),
    AfterValidator(_distinct),
]


@router.get(
    "/compare",
    response_model=Comparison,
    responses=answers("job_not_found"),
    dependencies=[takes("max_points", repeated=["job"])],
)
async def compare_jobs(
    job: _Jobs,
    services: ServicesDep,
    caller: ReaderDep,
    max_points: Annotated[int, Query(ge=2, le=MAX_POINTS, description="Epochs of the curves, at most")] = 500,
) -> Response:
    """Show 2 to 50 jobs beside each other: specs, networks, scores, curves, and what chance may explain.

    Networks are compared with that of the first job, accuracies pair by pair. A job without a result has null scores.
    """
    async with services.comparing:
        async with services.readers, services.sessions() as session:
            rows = await queries.read(session, caller, job)
            curves = await queries.curves(session, rows, max_points)
        # Aligning networks of hundreds of layers takes a while, which other requests must not wait for.
        content = await asyncio.to_thread(_written, rows, curves)
    return Response(content, media_type="application/json")


def _written(rows: list[Row], curves: ComparedCurves) -> str:
    return compare(rows, curves).model_dump_json()
