"""What a list of jobs may be asked for: filters by name, and conditions on scores, read from the query string."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from fastapi.exceptions import RequestValidationError
from pydantic import Field, TypeAdapter, ValidationError
from sqlalchemy import ColumnElement, String, exists, func, literal_column, or_, select
from sqlalchemy.dialects.postgresql import JSONB

from models.job import Job, Status
from models.scores import score_columns
from models.user import User
from models.validation import MetadataKey, MetadataValue, Moment, Name, Tag

MOST_CONDITIONS = 50
_MOST_QUOTED = 64

# As the indexes have them: a subscript with a parameter in it is another expression to Postgres.
_TAGS = literal_column("(jobs.spec -> 'tags')", JSONB)
_METADATA = literal_column("(jobs.spec -> 'metadata')", JSONB)
_DATASET = literal_column("((jobs.spec -> 'dataset') ->> 'name')", String)
_NETWORK = literal_column("((jobs.spec -> 'network') ->> 'name')", String)
_RECIPE = literal_column("(jobs.spec ->> 'recipe')", String)

_COMPARED = re.compile(r"(?P<score>[^<>=]+)(?P<operator>>=|<=|=|>|<)(?P<value>.*)", re.DOTALL)
_OPERATORS: dict[str, Callable[[Any, float], ColumnElement[bool]]] = {
    ">=": lambda score, value: score >= value,
    "<=": lambda score, value: score <= value,
    ">": lambda score, value: score > value,
    "<": lambda score, value: score < value,
    "=": lambda score, value: score == value,
}
_METADATA_NAME = re.compile(r"metadata\[(?P<key>.*)\]", re.DOTALL)
Number = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True)
class Filter:
    """One filter: how its value is read, what it asks of a job, and what it is good for."""

    reads: TypeAdapter[Any]
    condition: Callable[[Any], ColumnElement[bool]]
    description: str
    is_list: bool = False  # may be given more than once; its condition takes all values


def _has_text(text: str) -> ColumnElement[bool]:
    tag = func.jsonb_array_elements_text(_TAGS, type_=String).column_valued("tag")
    in_tag = exists(select(tag).where(tag.icontains(text, autoescape=True)))
    places = (Job.name, Job.message, _RECIPE)
    return or_(*(place.icontains(text, autoescape=True) for place in places), in_tag)


def _of_user(name: str) -> ColumnElement[bool]:
    return Job.user_id == select(User.id).where(User.name == name).scalar_subquery()


FILTERS: dict[str, Filter] = {
    "status": Filter(TypeAdapter(Status), lambda of: Job.status.in_([s.value for s in of]), "Any of these", True),
    "user": Filter(TypeAdapter(Name), _of_user, "Submitted by the user of this name"),
    "tag": Filter(TypeAdapter(Tag), _TAGS.contains, "With all of these tags", True),
    "dataset": Filter(TypeAdapter(Name), _DATASET.__eq__, "On the data set of this name"),
    "network": Filter(TypeAdapter(Name), _NETWORK.__eq__, "With the network of this name"),
    "recipe": Filter(TypeAdapter(Name), _RECIPE.__eq__, "Made from this recipe"),
    "queue": Filter(TypeAdapter(Name), Job.queue.__eq__, "In this queue"),
    "sweep": Filter(TypeAdapter(UUID), Job.sweep_id.__eq__, "Of the sweep with this id"),
    "created_after": Filter(TypeAdapter(Moment), Job.created_at.__ge__, "Submitted at this time or later"),
    "created_before": Filter(TypeAdapter(Moment), Job.created_at.__lt__, "Submitted before this time"),
    "text": Filter(
        TypeAdapter(Name), _has_text, "This text stands in the name, a tag, the message or the recipe, in either case"
    ),
}


def conditions(pairs: Sequence[tuple[str, str]]) -> list[ColumnElement[bool]]:
    """Return what the pairs of a query string ask of a job; raise RequestValidationError naming a bad one.

    A pair is a filter by its name, `metadata[key]=value`, or the comparison of a score: `best.validation_accuracy>=0.6`
    comes as the name `best.validation_accuracy>` and the value `0.6`, `best.validation_accuracy>0.6` as a name alone.
    """
    if len(pairs) > MOST_CONDITIONS:
        raise bad_query("query", f"A list takes {MOST_CONDITIONS} conditions at most", "too_many_conditions")
    found: list[ColumnElement[bool]] = []
    named: dict[str, list[Any]] = {}
    for name, value in pairs:
        if name in FILTERS:
            named.setdefault(name, []).append(read(name, value, FILTERS[name].reads))
        elif match := _METADATA_NAME.fullmatch(name):
            key = read(name, match["key"], _KEY)
            found.append(_METADATA.contains({key: read(name, value, _VALUE)}))
        else:
            found.append(_comparison(name, value))
    for name, values in named.items():
        if len(values) > 1 and not FILTERS[name].is_list:
            raise bad_query(name, "This filter takes one value", "repeated")
        found.append(FILTERS[name].condition(values if FILTERS[name].is_list else values[0]))
    return found


def read(name: str, text: str, adapter: TypeAdapter[Any]) -> Any:
    """Return the value of a parameter; raise RequestValidationError naming it."""
    try:
        return adapter.validate_python(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise bad_query(name, first["msg"], first["type"]) from None


def bad_query(name: str, message: str, code: str) -> RequestValidationError:
    """Return the error that refuses a parameter: a sentence about it and a stable code."""
    return RequestValidationError([{"loc": ("query", quoted(name)), "msg": message, "type": code}])


def quoted(name: str) -> str:
    """Return the beginning of a name that somebody sent, short enough for a message."""
    return name if len(name) <= _MOST_QUOTED else f"{name[:_MOST_QUOTED]}..."


def _comparison(name: str, value: str) -> ColumnElement[bool]:
    compared = _COMPARED.fullmatch(f"{name}={value}" if value else name)
    scores = score_columns()
    if compared is None and name in scores:
        raise bad_query(name, f"A score is compared with a number by one of {', '.join(_OPERATORS)}", "not_compared")
    if compared is None or compared["score"] not in scores:
        known = ", ".join([*FILTERS, "metadata[key]", *scores])
        raise bad_query(name, f"There is no filter of this name; there are {known}", "unknown_filter")
    number = read(name, compared["value"], _NUMBER)
    return _OPERATORS[compared["operator"]](scores[compared["score"]], number)


_KEY: TypeAdapter[str] = TypeAdapter(MetadataKey)
_VALUE: TypeAdapter[str] = TypeAdapter(MetadataValue)
_NUMBER: TypeAdapter[float] = TypeAdapter(Number)
