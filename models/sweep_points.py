"""The checks of a sweep at submit: every point that is known, and its errors named where they stand in the request."""

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

from models.errors import FieldError, InvalidSpec
from models.point_specs import MAX_CHECKED_CHARACTERS, PointSpecs, TooMuchToCheck, spec_of, with_value
from models.spec import JobSpec
from models.sweep_spec import Bayesian, Grid, Point, PointList, Random, SweepSpec, as_text

Check = Callable[[JobSpec], None]  # raises InvalidSpec for what may not be asked for

_CHOSEN_SEED_BITS = 31
_SEED = "training.seed"
_UNKNOWN = ("extra_forbidden", "unknown_field")
_RANGES = "parameters.ranges"
_MOST_ERRORS = 20
_TOO_MUCH = FieldError(
    "parameters",
    f"The specs of all points have more than {MAX_CHECKED_CHARACTERS:,} characters together, a data set or a network "
    "that they share counted once: use fewer points, or a smaller spec.",
    "too_long",
)


def _anything(_: JobSpec) -> None:
    """Whatever a valid spec asks for is taken."""


def prepared(sweep: SweepSpec, check: Check = _anything) -> SweepSpec:
    """Return the sweep with its name, its direction and every seed that was left open recorded in it.

    Raises InvalidSpec naming the parameter and the place of each value that makes a spec that could not be submitted.
    What is checked is every point of a grid, of a list and of a random sweep, and the ends and choices of all ranges;
    `check` is asked about each spec besides.
    """
    base = _checked_base(sweep, check)
    changes: dict[str, Any] = {
        "name": sweep.name or base.name,
        "direction": "maximize" if sweep.maximizes else "minimize",
    }
    if isinstance(sweep.parameters, Random | Bayesian) and sweep.parameters.seed is None:
        changes["parameters"] = sweep.parameters.model_copy(update={"seed": secrets.randbits(_CHOSEN_SEED_BITS)})
    # One seed for all jobs: with one of its own each would hold out another validation split.
    whole = sweep.model_copy(update=changes | {"spec": with_value(sweep.spec, _SEED, base.training.seed)})
    specs = PointSpecs(whole.spec)
    _check_points(whole, specs, _known_points(whole), check)
    if isinstance(whole.parameters, Random):
        drawn = (_Candidate(point, _RANGES, {}) for point in whole.parameters.every_point())
        _check_points(whole, specs, drawn, check)
    return whole


def _checked_base(sweep: SweepSpec, check: Check) -> JobSpec:
    try:
        base = spec_of(sweep.spec, {})
        check(base)
    except InvalidSpec as error:
        fields = [FieldError(_inside("spec", field.loc), field.message, field.code) for field in error.errors]
        raise InvalidSpec(fields) from None
    return base


@dataclass(frozen=True)
class _Candidate:
    """A point to be checked, and where it stands in the request: each value at `<where>.<path>.<place>`."""

    point: Point
    where: str
    places: Mapping[str, str]

    def place_of(self, path: str) -> str:
        """Return where the value of one parameter stands."""
        return _inside(f"{self.where}.{path}", self.places.get(path, ""))


def _check_points(sweep: SweepSpec, specs: PointSpecs, candidates: Iterable[_Candidate], check: Check) -> None:
    problems: dict[tuple[str, str], FieldError] = {}
    for candidate in candidates:
        try:
            spec = specs.of(candidate.point)
            check(spec)
            found = _objective_problems(sweep, spec)
        except InvalidSpec as error:
            found = [_in_request(field, candidate) for field in error.errors]
        except TooMuchToCheck:
            problems.setdefault(("parameters", "too_long"), _TOO_MUCH)
            break
        problems |= {(field.loc, field.code): field for field in found if (field.loc, field.code) not in problems}
        if len(problems) >= _MOST_ERRORS:
            break
    if problems:
        raise InvalidSpec(list(islice(problems.values(), _MOST_ERRORS)))


def _known_points(sweep: SweepSpec) -> Iterator[_Candidate]:
    """Yield the points whose values stand in the request: all of a grid or a list, of ranges the corners."""
    match sweep.parameters:
        case Grid(values=values):
            for places in product(*(range(len(column)) for column in values.values())):
                chosen = dict(zip(values, places, strict=True))
                point = {path: values[path][place] for path, place in chosen.items()}
                yield _Candidate(point, "parameters.values", {path: str(place) for path, place in chosen.items()})
        case PointList(points=points):
            for number, point in enumerate(points):
                yield _Candidate(point, f"parameters.points.{number}", {})
        case Random() | Bayesian() as drawn:
            yield from _corners(drawn)


def _corners(drawn: Random | Bayesian) -> Iterator[_Candidate]:
    """Yield each end and each choice beside the first of all others, then the last of all together."""
    ends = {path: list(domain.ends().items()) for path, domain in drawn.ranges.items()}
    first = {path: values[0] for path, values in ends.items()}
    corners = [first]
    corners += [first | {path: end} for path, values in ends.items() for end in values[1:]]
    corners += [{path: values[-1] for path, values in ends.items()}]
    for corner in corners:
        point = {path: value for path, (_, value) in corner.items()}
        yield _Candidate(point, _RANGES, {path: place for path, (place, _) in corner.items()})


def _objective_problems(sweep: SweepSpec, spec: JobSpec) -> list[FieldError]:
    """Say why the objective is not measured in a job with this spec."""
    if sweep.objective.endswith("accuracy") and spec.dataset.task == "regression":
        message = f"A regression has no accuracy: use {sweep.objective.replace('accuracy', 'loss')}."
        return [FieldError("objective", message, "conflict")]
    if sweep.objective.startswith("validation") and spec.dataset.validation == 0:
        message = f"{sweep.objective} needs a validation split, and dataset.validation is 0."
        return [FieldError("objective", message, "conflict")]
    return []


def _in_request(field: FieldError, candidate: _Candidate) -> FieldError:
    """Return the error of a point's spec where a reader of the request finds what caused it."""
    path = _culprit(field.loc, list(candidate.point))
    if path is None:
        message = f"{field.loc}: {field.message} (at {as_text(candidate.point)})"
        return FieldError(candidate.where, message, field.code)
    place, is_the_parameter = candidate.place_of(path), f"{path}.".startswith(f"{field.loc}.")
    if is_the_parameter and field.code in _UNKNOWN:
        # Named once, not for each of its values.
        return FieldError(f"{candidate.where}.{path}", f"A job spec has no field {field.loc} here.", field.code)
    if is_the_parameter:
        return FieldError(place, field.message, field.code)
    if field.loc.startswith(f"{path}."):
        return FieldError(_inside(place, field.loc.removeprefix(f"{path}.")), field.message, field.code)
    return FieldError(place, f"{field.loc}: {field.message}", field.code)


def _culprit(loc: str, paths: list[str]) -> str | None:
    """Return the one parameter that an error at `loc` must come from; None where it may be any of several."""
    related = [path for path in paths if f"{loc}.".startswith(f"{path}.") or path.startswith(f"{loc}.")]
    if not related:
        related = [path for path in paths if path.partition(".")[0] == loc.partition(".")[0]]
    return related[0] if len(related) == 1 else paths[0] if len(paths) == 1 else None


def _inside(place: str, loc: str) -> str:
    return f"{place}.{loc}" if loc else place
