"""A sweep as a person asks for it: which fields of a job spec vary over which values, and what is sought."""

import itertools
import math
import random
import reprlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, JsonValue, StringConstraints, Tag, model_validator
from pydantic_core import PydanticCustomError

from models.training_spec import MAX_EPOCHS
from models.validation import Name, Strict

MAX_POINTS = 1_000
_MAX_CONCURRENT = 100
MAX_PARAMETERS = 32
_MAX_CHOICES = 100
_LARGEST = 1e12
_MAX_STEPS = 1_000_000_000  # of a range: beyond, a double no longer tells one value from the next
_SIGNIFICANT_DIGITS = 12  # of a stepped value: 0.1 + 2 x 0.1 is 0.3

Objective = Literal[
    "validation_accuracy", "validation_loss", "train_accuracy", "train_loss", "test_accuracy", "test_loss"
]
Direction = Literal["maximize", "minimize"]
_SAME_FOR_ALL = ("depends_on", "initial_checkpoint")


def _may_vary(path: str) -> str:
    if path.partition(".")[0] in _SAME_FOR_ALL:
        raise PydanticCustomError("same_for_all", "'{path}' is the same for all jobs of a sweep", {"path": path})
    return path


Path = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$", max_length=200),
    AfterValidator(_may_vary),
]
Point = dict[str, JsonValue]  # the value of each parameter, by the dotted path of its field


def _none_inside_another(values: dict[str, Any]) -> dict[str, Any]:
    for outer, inner in itertools.permutations(values, 2):
        if inner.startswith(f"{outer}."):
            raise PydanticCustomError(
                "overlap",
                "'{inner}' lies inside '{outer}': only one of them can vary",
                {"inner": inner, "outer": outer},
            )
    return values


class Grid(Strict):
    """Every combination of the values; the last parameter varies fastest."""

    kind: Literal["grid"] = "grid"
    values: Annotated[
        dict[Path, Annotated[list[JsonValue], Field(min_length=1, max_length=MAX_POINTS)]],
        Field(min_length=1, max_length=MAX_PARAMETERS),
        AfterValidator(_none_inside_another),
    ]

    @model_validator(mode="after")
    def _is_bounded(self) -> "Grid":
        if self.size > MAX_POINTS:
            raise PydanticCustomError(
                "too_long",
                "The grid has {size} points; a sweep has at most {limit}",
                {"size": self.size, "limit": MAX_POINTS},
            )
        return self

    @property
    def size(self) -> int:
        """How many points there are."""
        return math.prod(len(values) for values in self.values.values())

    def every_point(self) -> Iterator[Point]:
        """Yield the points in order."""
        for combination in itertools.product(*self.values.values()):
            yield dict(zip(self.values, combination, strict=True))


class PointList(Strict):
    """The points themselves."""

    kind: Literal["list"] = "list"
    points: list[
        Annotated[
            dict[Path, JsonValue],
            Field(min_length=1, max_length=MAX_PARAMETERS),
            AfterValidator(_none_inside_another),
        ]
    ] = Field(min_length=1, max_length=MAX_POINTS)

    @property
    def size(self) -> int:
        """How many points there are."""
        return len(self.points)

    def every_point(self) -> Iterator[Point]:
        """Yield the points in order."""
        yield from self.points


class Range(Strict):
    """Numbers from `low` to `high`, both included: all of them, whole ones, or one every `step` from `low` on."""

    low: Annotated[float, Field(ge=-_LARGEST, le=_LARGEST)]
    high: Annotated[float, Field(ge=-_LARGEST, le=_LARGEST)]
    log: bool = Field(default=False, description="Equal ratios are equally likely, in place of equal differences.")
    integer: bool = False
    step: Annotated[float, Field(gt=0, le=_LARGEST)] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> "Range":
        if self.low >= self.high:
            raise PydanticCustomError("range", "`low` must be less than `high`")
        if self.log and (self.low <= 0 or self.step is not None):
            raise PydanticCustomError("range", "A range on a log scale needs a `low` above 0, and no `step`")
        if self.step is not None and self.step > self.high - self.low:
            raise PydanticCustomError("range", "`step` must not be larger than the range")
        if self.step is not None and (self.high - self.low) / self.step > _MAX_STEPS:
            raise PydanticCustomError("range", f"`step` must leave at most {_MAX_STEPS:,} values")
        if self.integer and not all(edge.is_integer() for edge in (self.low, self.high, self.step or 1.0)):
            raise PydanticCustomError("range", "A range of integers needs whole numbers")
        return self

    @property
    def steps(self) -> int | None:
        """How many steps there are from the first value to the last; None where the values are not stepped."""
        step = self.step or (1.0 if self.integer and not self.log else None)
        # A billionth of a step more: (1 - 0.1) / 0.1 is a little less than 9.
        return None if step is None else math.floor((self.high - self.low) / step + 1e-9)

    def value_of_step(self, number: int) -> float | int:
        """Return the value `number` steps above `low`."""
        return self._tidy(float(f"{self.low + number * (self.step or 1.0):.{_SIGNIFICANT_DIGITS}g}"))

    def step_of_value(self, value: float) -> int:
        """Return how many steps above `low` a value stands that `value_of_step` gave."""
        return round((value - self.low) / (self.step or 1.0))

    def value_at(self, fraction: float) -> float | int:
        """Return the value at a fraction, from 0 to below 1, of the way from `low` to `high`."""
        if self.steps is not None:
            return self.value_of_step(math.floor(fraction * (self.steps + 1)))
        if not self.log:
            return self._tidy(self.low + fraction * (self.high - self.low))
        # A half more at each end, so that the outermost integers are as likely as those between them.
        margin = 0.5 if self.integer else 0.0
        low, high = math.log(self.low - margin), math.log(self.high + margin)
        return self._tidy(math.exp(low + fraction * (high - low)))

    def ends(self) -> dict[str, JsonValue]:
        """Return the outermost values by the name of the field that gives them."""
        highest = self.value_of_step(self.steps) if self.steps is not None else self._tidy(self.high)
        return {"low": self._tidy(self.low), "high": highest}

    def _tidy(self, value: float) -> float | int:
        inside = min(max(value, self.low), self.high)
        return round(inside) if self.integer else inside


class Choices(Strict):
    """One of several values, in no order."""

    choices: list[JsonValue] = Field(min_length=1, max_length=_MAX_CHOICES)

    def value_at(self, fraction: float) -> JsonValue:
        """Return the choice at a fraction, from 0 to below 1, of the way through the list."""
        return self.choices[math.floor(fraction * len(self.choices))]

    def ends(self) -> dict[str, JsonValue]:
        """Return every choice by the place that gives it."""
        return {f"choices.{place}": choice for place, choice in enumerate(self.choices)}


def _range_or_choices(value: Any) -> str:
    is_choices = "choices" in value if isinstance(value, dict) else isinstance(value, Choices)
    return "one_of" if is_choices else "between"


Domain = Annotated[
    Annotated[Range, Tag("between")] | Annotated[Choices, Tag("one_of")], Discriminator(_range_or_choices)
]


class _Drawn(Strict):
    n: Annotated[int, Field(ge=1, le=MAX_POINTS)] = Field(description="How many points.")
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] | None = Field(
        default=None, description="Chosen at submit and recorded where none is given."
    )
    ranges: Annotated[
        dict[Path, Domain], Field(min_length=1, max_length=MAX_PARAMETERS), AfterValidator(_none_inside_another)
    ]

    @property
    def size(self) -> int:
        """How many points there are."""
        return self.n


class Random(_Drawn):
    """Points drawn independently of each other; the same seed gives the same points, a larger n more of them."""

    kind: Literal["random"] = "random"

    def every_point(self) -> Iterator[Point]:
        """Yield the points in order; the seed must be there."""
        assert self.seed is not None, "a resolved sweep has a seed"
        draw = random.Random(self.seed).random  # noqa: S311 - to be repeatable, not to be secret
        for _ in range(self.n):
            yield {path: domain.value_at(draw()) for path, domain in self.ranges.items()}


class Bayesian(_Drawn):
    """Points that a tree-structured Parzen estimator (Bergstra et al. 2011) proposes from those that were tried."""

    kind: Literal["bayesian"] = "bayesian"


Parameters = Annotated[Grid | PointList | Random | Bayesian, Field(discriminator="kind")]


class MedianRule(Strict):
    """Stop a job whose best value is worse than the median of what the finished jobs had on average by that epoch."""

    kind: Literal["median"] = "median"
    min_epochs: Annotated[int, Field(ge=1, le=MAX_EPOCHS)] = Field(default=4, description="No job is stopped before.")
    min_jobs: Annotated[int, Field(ge=1, le=MAX_POINTS)] = Field(
        default=3, description="No job is stopped before so many have succeeded."
    )


class AshaRule(Strict):
    """Let one of `reduction_factor` jobs pass each rung: `min_epochs`, that times the factor, and so on."""

    kind: Literal["asha"] = "asha"
    min_epochs: Annotated[int, Field(ge=1, le=MAX_EPOCHS)] = 1
    reduction_factor: Annotated[int, Field(ge=2, le=100)] = 4  # as in the experiments of Li et al. 2020


EarlyStop = Annotated[MedianRule | AshaRule, Field(discriminator="kind")]


class SweepSpec(Strict):
    """A whole sweep: one job for each point, which is `spec` with the fields named in the point set to its values."""

    name: Name | None = None
    spec: dict[str, JsonValue] = Field(description="A whole job spec, as `POST /jobs` takes it.")
    parameters: Parameters
    objective: Objective = Field(
        description="What is compared: of each job the best trained epoch, or for `test_*` the figure of its result. "
        "Of a job with replicas their mean."
    )
    direction: Direction | None = Field(default=None, description="Unset: accuracies are maximized, losses minimized.")
    max_concurrent: Annotated[int, Field(ge=1, le=_MAX_CONCURRENT)] = Field(
        default=4, description="How many of its jobs may wait or run at a time."
    )
    early_stop: EarlyStop | None = None

    @model_validator(mode="after")
    def _objective_has_a_curve_where_jobs_are_stopped_by_it(self) -> "SweepSpec":
        if self.early_stop is not None and self.objective.startswith("test_"):
            raise PydanticCustomError(
                "conflict",
                "`early_stop` needs an objective of every epoch, and the test split is used once, at the end",
            )
        return self

    @property
    def maximizes(self) -> bool:
        """Whether larger values of the objective are better."""
        default = "maximize" if self.objective.endswith("accuracy") else "minimize"
        return (self.direction or default) == "maximize"

    def as_json(self) -> dict[str, Any]:
        """Return the sweep as it is stored."""
        return self.model_dump(mode="json")


def parameter_paths(parameters: Grid | PointList | Random | Bayesian) -> list[str]:
    """Return the paths of the fields that vary, in the order in which they were given."""
    match parameters:
        case Grid(values=values):
            return list(values)
        case PointList():
            return list(dict.fromkeys(path for point in parameters.points for path in point))
        case Random(ranges=ranges) | Bayesian(ranges=ranges):
            return list(ranges)


def as_text(point: Mapping[str, JsonValue]) -> str:
    """Return a point as a reader is told of it."""
    return ", ".join(f"{path} = {reprlib.repr(value)}" for path, value in point.items())
