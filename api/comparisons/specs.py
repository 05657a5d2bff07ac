"""Where the specs of jobs differ, and which jobs differ in nothing but the seed."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# One for all: json.dumps makes a new encoder for each of thousands of values. Not by ==, for which True is 1.
canonical = json.JSONEncoder(sort_keys=True).encode

# What names a job, draws its random numbers, or says how often it is tried, and is no choice that is compared.
_APART = (("name",), ("tags",), ("metadata",), ("retry",), ("training", "seed"))


def spec_differences(specs: Sequence[Mapping[str, Any]]) -> list[tuple[str, dict[int, Any]]]:
    """Return each dotted path whose value differs, with the values by the index of the spec.

    A spec that has no such field is left out of the values; name, tags, metadata, retry and seed are left out of the
    paths. Lists of objects are compared place by place (`dataset.features.2`), other lists as wholes.
    """
    return list(_differences((), dict(enumerate(map(_without_apart, specs)))))


def but_for_the_seed(spec: Mapping[str, Any]) -> str:
    """Return a text that is equal for the specs of jobs that differ in name, tags, metadata, retry and seed at most."""
    return canonical(_without_apart(spec))


def _without_apart(spec: Mapping[str, Any]) -> dict[str, Any]:
    rest = {name: dict(value) if isinstance(value, dict) else value for name, value in spec.items()}
    for *outer, last in _APART:
        place = rest
        for name in outer:
            place = place.get(name, {})
        place.pop(last, None)
    return rest


def _differences(path: tuple[str, ...], values: dict[int, Any]) -> Iterator[tuple[str, dict[int, Any]]]:
    """Go down to where not all values are objects, or not all lists of objects, any more."""
    if len({canonical(value) for value in values.values()}) == 1:
        return
    fields = {index: _fields(value) for index, value in values.items()}
    if any(each is None for each in fields.values()):
        yield ".".join(path), values
        return
    names = dict.fromkeys(name for each in fields.values() for name in each or ())
    for name in names:
        inner = {index: each[name] for index, each in fields.items() if each is not None and name in each}
        if len(inner) == len(values):
            yield from _differences((*path, name), inner)
        else:
            yield ".".join((*path, name)), inner


def _fields(value: Any) -> dict[str, Any] | None:
    """Return what an object, or a list of objects, has by name or place; None for anything else."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return {str(place): item for place, item in enumerate(value)}
    return None
