"""What a request for a list of jobs says: which jobs, in which order, from where on, how many, and what of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from pydantic import Field, TypeAdapter
from sqlalchemy import ColumnElement

from api.jobs import fields
from api.jobs.filters import FILTERS, MOST_CONDITIONS, bad_query, conditions, quoted, read
from api.jobs.orders import SORTS, Order
from api.paging import MAX_PAGE
from models.scores import score_columns

_DEFAULT_LIMIT = 20
_MOST_FIELDS = 100
_LIMIT: TypeAdapter[int] = TypeAdapter(Annotated[int, Field(ge=1, le=MAX_PAGE)])
_ITS_OWN = ("sort", "fields", "after", "limit")


@dataclass(frozen=True)
class Listing:
    """A list of jobs as it was asked for, with the fields to show of each."""

    conditions: Sequence[ColumnElement[bool]]
    order: Order
    limit: int = _DEFAULT_LIMIT
    fields: tuple[str, ...] = fields.WHOLE


async def _listing(request: Request) -> Listing:
    """Read the query string; raise RequestValidationError naming what is wrong in it."""
    pairs = request.query_params.multi_items()
    own = once([pair for pair in pairs if pair[0] in _ITS_OWN])
    order = Order.read(own.get("sort"))
    asked = conditions([pair for pair in pairs if pair[0] not in _ITS_OWN])
    return Listing(
        conditions=[*asked, order.after(own["after"])] if "after" in own else asked,
        order=order,
        limit=read("limit", own["limit"], _LIMIT) if "limit" in own else _DEFAULT_LIMIT,
        fields=_fields(own["fields"]) if "fields" in own else fields.WHOLE,
    )


ListingDep = Annotated[Listing, Depends(_listing)]


def once(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return the values by their names; raise RequestValidationError naming a parameter that comes twice."""
    values: dict[str, str] = {}
    for name, value in pairs:
        if name in values:
            raise bad_query(name, "This parameter takes one value", "repeated")
        values[name] = value
    return values


def _fields(listed: str) -> tuple[str, ...]:
    asked = listed.split(",")
    if len(asked) > _MOST_FIELDS:
        raise bad_query("fields", f"At most {_MOST_FIELDS} fields can be asked for", "too_many_fields")
    chosen: list[str] = []
    for name in asked:
        found = fields.find(name)
        if not found:
            known = ", ".join(fields.names())
            message = f"There is no field {quoted(name)!r}; there are {known}, and those within them, as best.epoch"
            raise bad_query("fields", message, "unknown_field")
        chosen += found
    return tuple(dict.fromkeys(chosen))


def _parameter(name: str, schema: dict[str, Any], description: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description, **more}


def _thresholds() -> dict[str, Any]:
    """Describe the bounds of scores as one object, each property of which is sent as `property=value`.

    As parameters of their own they would have one name to generators of clients, which leave out the signs.
    """
    names = [f"{name}{sign}" for name in score_columns() for sign in "><"]
    return _parameter(
        "thresholds",
        {"type": "object", "propertyNames": {"enum": names}, "additionalProperties": {"type": "number"}},
        "At least (`>`), or at most (`<`), these numbers: the property `best.validation_accuracy>` with the value 0.6 "
        "is sent as `best.validation_accuracy>=0.6`. Typed without the `=`: more, or less, than that.",
        style="form",
        explode=True,
    )


def parameters() -> list[dict[str, Any]]:
    """Return what OpenAPI says of the query string, from the tables that it is read by."""
    named = [
        _parameter(
            name,
            {"type": "array", "items": schema, "maxItems": MOST_CONDITIONS} if entry.is_list else schema,
            f"{entry.description}.",
        )
        for name, entry in FILTERS.items()
        for schema in [entry.reads.json_schema()]
    ]
    pairs = {"type": "object", "additionalProperties": {"type": "string", "maxLength": 512}, "maxProperties": 16}
    of_fields = f"Only these, with commas between: {', '.join(fields.names())}, or what is within them: `best.epoch`."
    return [
        *named,
        _parameter("metadata", pairs, "With these pairs: `metadata[key]=value`.", style="deepObject", explode=True),
        *(_parameter(name, {"type": "number"}, "Equal to this number.") for name in score_columns()),
        _thresholds(),
        _parameter(
            "sort",
            {"type": "string", "enum": SORTS},
            "Another order than the newest first; jobs without a value come last.",
        ),
        _parameter("fields", {"type": "string", "maxLength": 4_000}, of_fields),
        _parameter("after", {"type": "string"}, "The `next` of the page before."),
        _parameter("limit", _LIMIT.json_schema() | {"default": _DEFAULT_LIMIT}, "Items on a page."),
    ]
