"""What a person sends for a sweep, and what the API shows of one; field names are frozen."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, JsonValue, TypeAdapter
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from api.recipes.schemas import SubmittedSpec
from models.job import Status
from models.sweep import Sweep, SweepStatus
from models.sweep_spec import Direction, EarlyStop, Objective, SweepSpec


class _AsJobsTakeIt:
    """Documents an object as the body of `POST /jobs`."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(TypeAdapter(SubmittedSpec).core_schema)


_EXAMPLE: dict[str, Any] = {
    "name": "learning rates",
    "spec": {"recipe": "lenet"},
    "parameters": {"kind": "grid", "values": {"training.optimizer.learning_rate": [0.1, 0.03, 0.01]}},
    "objective": "validation_accuracy",
    "max_concurrent": 2,
    "early_stop": {"kind": "median", "min_epochs": 5},
}


class SubmittedSweep(SweepSpec):
    """The body of a new sweep."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    spec: Annotated[dict[str, JsonValue], _AsJobsTakeIt()] = Field(
        description="A whole job spec, as `POST /jobs` takes it; the fields of each point are set in it."
    )


class PointView(BaseModel):
    """A point that was tried, and its job.

    `value` is the objective's at its best trained epoch, `epoch` (null for `test_*`). Failed, refused and cancelled
    points without a value have no rank and come last; `refused` is a spec that the service could not accept.
    """

    rank: int | None
    point: int
    parameters: dict[str, Any]
    job_id: UUID | None
    status: Status | Literal["refused"]
    reason: str | None
    message: str | None
    value: float | None
    epoch: int | None


class ValueSummary(BaseModel):
    """One value of a parameter: how many points with it have a result, and their mean and best objective."""

    value: JsonValue
    n: int
    mean: float
    best: float


class ParameterSummary(BaseModel):
    """What the objective does along one parameter, over the `n` points that have a value and did not fail.

    `values` is for parameters given value by value. `rank_correlation` is Spearman's, from -1 to 1, with equal ranks
    for equal values; null for what is no number, for fewer than three points, and where either side is constant.
    """

    parameter: str
    n: int
    values: list[ValueSummary]
    rank_correlation: float | None


class SweepView(BaseModel):
    """A sweep in a list; `tried` counts the points so far, `jobs` their jobs by status."""

    id: UUID
    user: str
    name: str | None
    status: SweepStatus
    objective: Objective
    direction: Direction
    max_concurrent: int
    early_stop: EarlyStop | None
    points: int
    tried: int
    jobs: dict[Status, int]
    created_at: datetime
    cancelled_at: datetime | None
    ended_at: datetime | None

    @classmethod
    def of(cls, sweep: Sweep, user: str, *, tried: int, jobs: Mapping[Status, int]) -> "SweepView":
        """Show a user's sweep."""
        return cls(**_short(sweep, user, tried=tried, jobs=jobs))


class SweepDetail(SweepView):
    """A whole sweep: what was asked for, with every seed, and what came of it, the best points first."""

    spec: dict[str, Any]
    parameters: dict[str, Any]
    best: PointView | None
    leaderboard: list[PointView]
    summary: list[ParameterSummary]

    @classmethod
    def whole(
        cls,
        sweep: Sweep,
        user: str,
        *,
        jobs: Mapping[Status, int],
        leaderboard: list[PointView],
        summary: list[ParameterSummary],
    ) -> "SweepDetail":
        """Show a user's sweep with its leaderboard."""
        best = leaderboard[0] if leaderboard and leaderboard[0].rank is not None else None
        return cls(
            **_short(sweep, user, tried=len(leaderboard), jobs=jobs),
            spec=sweep.request["spec"],
            parameters=sweep.request["parameters"],
            best=best,
            leaderboard=leaderboard,
            summary=summary,
        )


class SweepPage(BaseModel):
    """Sweeps, newest first; `next` is the `after` of the following page, null at the end."""

    items: list[SweepView]
    next: UUID | None


def _short(sweep: Sweep, user: str, *, tried: int, jobs: Mapping[Status, int]) -> dict[str, Any]:
    return {
        "id": sweep.id,
        "user": user,
        "name": sweep.name,
        "status": sweep.status,
        "objective": sweep.objective,
        "direction": sweep.direction,
        "max_concurrent": sweep.max_concurrent,
        "early_stop": sweep.early_stop,
        "points": sweep.points,
        "tried": tried,
        "jobs": {status: jobs.get(status, 0) for status in Status},
        "created_at": sweep.created_at,
        "cancelled_at": sweep.cancelled_at,
        "ended_at": sweep.ended_at,
    }
