"""Which query parameters a route takes: others, and those that come twice, are refused and not passed over."""

from collections.abc import Sequence
from typing import Any

from fastapi import Depends, Request

from api.jobs.filters import bad_query
from api.jobs.listing import once


def takes(*names: str, repeated: Sequence[str] = ()) -> Any:
    """Return the dependency of a route that takes each of the names once, those in `repeated` any number of times.

    It raises RequestValidationError naming the parameter.
    """
    known = (*repeated, *names)

    async def refuse_others(request: Request) -> None:
        pairs = request.query_params.multi_items()
        for name, _ in pairs:
            if name not in known:
                message = f"There is no parameter of this name; there are {', '.join(known)}"
                raise bad_query(name, message, "unknown_parameter")
        once([pair for pair in pairs if pair[0] in names])

    return Depends(refuse_others)
