"""From a sweep to the job specs of its points, and the checks of every point that is known at submit."""

import copy
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

from pydantic import JsonValue, ValidationError

from models.errors import FieldError, InvalidSpec
from models.recipes import expand
from models.spec import JobSpec
from models.sweep_spec import Bayesian, Grid, Point, PointList, Random, SweepSpec, as_text
from models.validation import error_code, field_path

_CHOSEN_SEED_BITS = 31
_SEED = "training.seed"
_UNKNOWN = ("extra_forbidden", "unknown_field")
_RANGES = "parameters.ranges"
_MOST_ERRORS = 20
_MOST_NAME = 180  # characters, which leaves room for the number of the point


def spec_of(sent: Mapping[str, JsonValue], point: Mapping[str, JsonValue]) -> JobSpec:
    """Return the job spec of a point: what `POST /jobs` makes of `sent` with the point's fields set in it.

    Raises InvalidSpec with the fields as they are called in a job spec.
    """
    changed: Any = copy.deepcopy(dict(sent))
    for path, value in point.items():
        _set(changed, path.split("."), copy.deepcopy(value))
    expanded = expand(changed)
    try:
        return JobSpec.model_validate(expanded).resolved()
    except ValidationError as error:
        fields = [
            FieldError(field_path(entry, entry["loc"], expanded), entry["msg"], error_code(entry))
            for entry in error.errors()
        ]
        raise InvalidSpec(fields) from None


def named(spec: JobSpec, sweep_name: str | None, number: int) -> JobSpec:
    """Return the spec under the name that its sweep gives it; without a name of the sweep it keeps its own."""
    if sweep_name is None:
        return spec
    return spec.model_copy(update={"name": f"{sweep_name[:_MOST_NAME]} #{number}"})


def prepared(sweep: SweepSpec) -> SweepSpec:
    """Return the sweep with its name, its direction and every seed that was left open recorded in it.

    Raises InvalidSpec naming the parameter and the place of each value that makes a spec that could not be submitted.
    What is checked is every point of a grid, of a list and of a random sweep, and the ends and choices of all ranges.
    """
    base = _checked_base(sweep)
    changes: dict[str, Any] = {
        "name": sweep.name or base.name,
        "direction": "maximize" if sweep.maximizes else "minimize",
    }
    if isinstance(sweep.parameters, Random | Bayesian) and sweep.parameters.seed is None:
        changes["parameters"] = sweep.parameters.model_copy(update={"seed": secrets.randbits(_CHOSEN_SEED_BITS)})
    # One seed for all jobs: with one of its own each would hold out another validation split.
    sent: Any = copy.deepcopy(sweep.spec)
    _set(sent, _SEED.split("."), base.training.seed)
    whole = sweep.model_copy(update=changes | {"spec": sent})
    _check_points(whole, _known_points(whole))
    if isinstance(whole.parameters, Random):
        _check_points(whole, (_Candidate(point, _RANGES, {}) for point in whole.parameters.every_point()))
    return whole


def _checked_base(sweep: SweepSpec) -> JobSpec:
    try:
        return spec_of(sweep.spec, {})
    except InvalidSpec as error:
        fields = [FieldError(_inside("spec", field.loc), field.message, field.code) for field in error.errors]
        raise InvalidSpec(fields) from None


def _set(spec: Any, path: list[str], value: JsonValue) -> None:
    """Set a field in a spec as it was sent, objects on the way to it included; raise InvalidSpec off the lists."""
    _fetch_lists(spec, path)
    here = spec
    for place, part in enumerate(path[:-1]):
        inner = _step(here, part, path[: place + 1])
        if inner is None:
            inner = here[_key(here, part)] = {}
        here = inner
    _step(here, path[-1], path)
    here[_key(here, path[-1])] = value


def _step(here: Any, part: str, path: list[str]) -> Any:
    """Return what stands at one place, None for nothing; raise InvalidSpec where there can be nothing."""
    if isinstance(here, dict):
        return here.get(part)
    loc = ".".join(path)
    if not isinstance(here, list):
        raise InvalidSpec([FieldError(loc, "What this lies in has no fields.", "unknown_field")])
    if not part.isdecimal() or int(part) >= len(here):
        raise InvalidSpec([FieldError(loc, f"The list has {len(here)} entries, counted from 0.", "no_such_entry")])
    return here[int(part)]


def _key(here: Any, part: str) -> Any:
    return int(part) if isinstance(here, list) else part


def _fetch_lists(spec: Any, path: list[str]) -> None:
    """Copy the list that a path leads into from the spec's recipe, where the spec itself has none."""
    ahead = next((place for place, part in enumerate(path) if part.isdecimal()), None)
    if not ahead or "recipe" not in spec:
        return
    here, whole = spec, expand(spec)
    for part in path[: ahead - 1]:
        whole = whole.get(part) if isinstance(whole, dict) else None
        here = here.setdefault(part, {}) if isinstance(here, dict) else None
    last = path[ahead - 1]
    if isinstance(here, dict) and isinstance(whole, dict) and isinstance(whole.get(last), list):
        here.setdefault(last, copy.deepcopy(whole[last]))


@dataclass(frozen=True)
class _Candidate:
    """A point to be checked, and where it stands in the request: each value at `<where>.<path>.<place>`."""

    point: Point
    where: str
    places: Mapping[str, str]

    def place_of(self, path: str) -> str:
        """Return where the value of one parameter stands."""
        return _inside(f"{self.where}.{path}", self.places.get(path, ""))


def _check_points(sweep: SweepSpec, candidates: Iterable[_Candidate]) -> None:
    problems: dict[tuple[str, str], FieldError] = {}
    for candidate in candidates:
        try:
            spec = spec_of(sweep.spec, candidate.point)
            found = _objective_problems(sweep, spec)
        except InvalidSpec as error:
            found = [_in_request(field, candidate) for field in error.errors]
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
