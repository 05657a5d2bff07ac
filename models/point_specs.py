"""From the points of a sweep to their job specs: fields set in what was sent, and what points share checked once."""

import copy
import json
from collections.abc import Mapping
from functools import reduce
from typing import Any

from pydantic import JsonValue, ValidationError

from models.errors import FieldError, InvalidSpec
from models.network import NetworkSummary
from models.recipes import expand
from models.spec import JobSpec
from models.validation import Strict, error_code, field_path

# Of all specs of a sweep together, as JSON, what they share counted once: a thousand that differ in 20 KB each.
MAX_CHECKED_CHARACTERS = 20_000_000
_LARGE = ("dataset", "network")  # the fields that may be long, or take long to check
_MOST_ERRORS = 1_000
_MOST_NAME = 180  # characters, which leaves room for the number of the point


class TooMuchToCheck(Exception):
    """The specs that were asked for are longer together than what is checked for one request."""


class PointSpecs:
    """The job specs of a sweep's points; a data set or a network that several of them share is checked once."""

    def __init__(self, sent: Mapping[str, JsonValue]) -> None:
        """Take the job spec in which the fields of each point are set."""
        self._sent = sent
        self._left = MAX_CHECKED_CHARACTERS
        # By field and id of what was sent: of equal objects one may have true for 1, which to a job spec are not equal.
        self._shared: dict[tuple[str, int], tuple[Any, Strict]] = {}
        self._summaries: dict[tuple[int, int], NetworkSummary | None] = {}  # by the ids of data set and network

    def of(self, point: Mapping[str, JsonValue]) -> JobSpec:
        """Return the job spec of a point: what `POST /jobs` makes of what was sent with the point's fields set in it.

        Raises InvalidSpec with the fields as they are called in a job spec, and TooMuchToCheck.
        """
        changed = reduce(lambda spec, field: with_value(spec, *field), point.items(), dict(self._sent))
        expanded = expand(changed)
        try:
            spec = JobSpec.model_validate(self._with_shared(expanded))
        except ValidationError as error:
            entries = error.errors(include_url=False, include_input=False)[:_MOST_ERRORS]
            fields = [
                FieldError(field_path(entry, entry["loc"], expanded), entry["msg"], error_code(entry))
                for entry in entries
            ]
            raise InvalidSpec(fields) from None
        for field in _LARGE:
            # What this point alone has, and what was merged with a recipe's, is another object for the next one.
            if expanded[field] is changed.get(field) and not any(path.startswith(f"{field}.") for path in point):
                self._shared[field, id(expanded[field])] = expanded[field], getattr(spec, field)
        return spec.resolved(self._summary)

    def _with_shared(self, expanded: dict[str, Any]) -> dict[str, Any]:
        """Return a spec with those of its parts in it that have been read, and count the others."""
        keys = {field: (field, id(part)) for field, part in expanded.items()}
        known = {field: self._shared[key][1] for field, key in keys.items() if key in self._shared}
        self._left -= len(json.dumps({field: part for field, part in expanded.items() if field not in known}))
        if self._left < 0:
            raise TooMuchToCheck
        return expanded | known

    def _summary(self, spec: JobSpec) -> NetworkSummary | None:
        key = id(spec.dataset), id(spec.network)
        if key in self._summaries:
            return self._summaries[key]
        summary = spec.summary()
        if {id(read) for _, read in self._shared.values()}.issuperset(key):  # else the ids may be another's later
            self._summaries[key] = summary
        return summary


def spec_of(sent: Mapping[str, JsonValue], point: Mapping[str, JsonValue]) -> JobSpec:
    """Return the job spec of a single point; raise InvalidSpec with the fields as they are called in a job spec."""
    return PointSpecs(sent).of(point)


def named(spec: JobSpec, sweep_name: str | None, number: int) -> JobSpec:
    """Return the spec under the name that its sweep gives it; without a name of the sweep it keeps its own."""
    if sweep_name is None:
        return spec
    return spec.model_copy(update={"name": f"{sweep_name[:_MOST_NAME]} #{number}"})


def with_value(spec: dict[str, Any], path: str, value: JsonValue) -> dict[str, Any]:
    """Return a spec, as it was sent, with a field set in it, objects on the way to it included.

    What does not lie on the way is shared with the spec as it was. Raises InvalidSpec off the lists.
    """
    parts = path.split(".")
    changed: dict[str, Any] = _placed(_with_list_of_recipe(spec, parts), parts, 0, value)
    return changed


def _placed(here: Any, path: list[str], depth: int, value: JsonValue) -> Any:
    if depth == len(path):
        return value
    inner = _step(here, path[depth], path[: depth + 1])
    changed = copy.copy(here)
    key = int(path[depth]) if isinstance(here, list) else path[depth]
    changed[key] = _placed({} if inner is None else inner, path, depth + 1, value)
    return changed


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


def _with_list_of_recipe(spec: dict[str, Any], path: list[str]) -> dict[str, Any]:
    """Return the spec with the list in it that a path leads into, where only its recipe has one."""
    ahead = next((place for place, part in enumerate(path) if part.isdecimal()), None)
    if not ahead or "recipe" not in spec:
        return spec
    found = expand(spec)
    for part in path[:ahead]:
        found = found.get(part) if isinstance(found, dict) else None
    changed: dict[str, Any] = _placed(spec, path[:ahead], 0, found) if isinstance(found, list) else spec
    return changed
