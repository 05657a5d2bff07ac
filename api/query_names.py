"""Which query parameters a route takes: others, and those that come twice, are refused and not passed over.

A route that is asked for most reads all of them as one model: FastAPI takes a good part of the time for each.
"""

from collections.abc import Collection, Sequence
from typing import Any, TypeVar

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from api.jobs.filters import bad_query
from api.jobs.listing import once

Model = TypeVar("Model", bound=BaseModel)


def takes(*names: str, repeated: Sequence[str] = ()) -> Any:
    """Return the dependency of a route that takes each of the names once, those in `repeated` any number of times.

    It raises RequestValidationError naming the parameter.
    """
    known = (*repeated, *names)

    async def refuse_others(request: Request) -> None:
        pairs = request.query_params.multi_items()
        _refuse_unknown(pairs, known)
        once([pair for pair in pairs if pair[0] in names])

    return Depends(refuse_others)


def read_query(request: Request, model: type[Model]) -> Model:
    """Return what the query string says as this model; raise RequestValidationError naming a bad parameter."""
    pairs = request.query_params.multi_items()
    _refuse_unknown(pairs, model.model_fields)
    try:
        return model.model_validate(once(pairs))
    except ValidationError as error:
        entries = error.errors(include_url=False)
        raise RequestValidationError([entry | {"loc": ("query", *entry["loc"])} for entry in entries]) from None


def described(model: type[BaseModel]) -> list[dict[str, Any]]:
    """Return what OpenAPI says of the query parameters that `read_query` reads."""
    properties = model.model_json_schema()["properties"]
    return [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": schema.pop("description")}
        for name, schema in properties.items()
    ]


def _refuse_unknown(pairs: Sequence[tuple[str, str]], known: Collection[str]) -> None:
    for name, _ in pairs:
        if name not in known:
            message = f"There is no parameter of this name; there are {', '.join(known)}"
            raise bad_query(name, message, "unknown_parameter")
