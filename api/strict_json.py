"""JSON bodies read strictly: no NaN, no duplicate keys, bounded depth, one content type."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from api.problems import ProblemError

MAX_DEPTH = 32


class StrictRoute(APIRoute):
    """A route whose JSON body is read by the rules of this module."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the request before FastAPI reads it."""
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(_StrictRequest(request.scope, request.receive))

        return strict


class _StrictRequest(Request):
    async def body(self) -> bytes:
        content = await super().body()
        media_type = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content and media_type != "application/json":
            raise ProblemError(415, "unsupported_media_type", "Send the body as application/json.")
        return content

    async def json(self) -> Any:
        return parse(await self.body())


def parse(content: bytes) -> Any:
    """Return the value of a JSON text; raise ProblemError (400 `invalid_json`) where it could be read in two ways."""
    try:
        value = json.loads(content.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        # UnicodeDecodeError and JSONDecodeError are ValueErrors, as is an integer of thousands of digits.
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ProblemError(400, "invalid_json", f"The body is not valid JSON: {reason}.") from None
    if _deeper_than(value, MAX_DEPTH):
        raise ProblemError(400, "invalid_json", f"The body is nested more than {MAX_DEPTH} levels deep.")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"duplicate key {next(name for name in names if names.count(name) > 1)!r}")
    return value


def _deeper_than(value: Any, depth: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return False
    return depth == 0 or any(_deeper_than(item, depth - 1) for item in value)
