"""JSON bodies read strictly: bounded in size and depth, no NaN, no duplicate keys, one content type."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from api.access.caller import authenticated
from api.problems import ProblemError

_MAX_BODY_BYTES = 1_048_576
MAX_DEPTH = 32


class StrictRoute(APIRoute):
    """A guarded route whose JSON body is read by the rules of this module, once it is known who sends it.

    One that takes no body has nothing to say of what is sent as one, but for its size.
    """

    max_body_bytes = _MAX_BODY_BYTES

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the request before FastAPI reads it."""
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            await authenticated(request)  # before anything that a stranger sent is read
            reads_body = _StrictRequest if self.body_field is not None else _BoundedRequest
            strictly = reads_body(request.scope, request.receive)
            await strictly.read_bounded(self.max_body_bytes)
            return await handler(strictly)

        return strict


class _BoundedRequest(Request):
    async def read_bounded(self, limit: int) -> None:
        """Read the body, whether or not the route has a use for it; raise ProblemError (413) beyond `limit` bytes."""
        # FastAPI's own limit answers in plain text, past every handler; ours is a problem like all others.
        if "content-length" not in self.headers and "transfer-encoding" not in self.headers:
            self._body = b""  # RFC 9112: a request without either has no body
            return
        content = bytearray()
        declared = self.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > limit:
            raise _too_large(limit)
        try:
            async for piece in self.stream():
                content += piece
                if len(content) > limit:
                    raise _too_large(limit)
        except ClientDisconnect:
            raise ProblemError(400, "malformed_request", "The body ended early.") from None  # for the log alone
        self._body = bytes(content)


class _StrictRequest(_BoundedRequest):
    async def body(self) -> bytes:
        content = await super().body()
        media_type = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        encoding = self.headers.get("content-encoding", "identity").strip().lower()
        if content and (media_type != "application/json" or encoding != "identity"):
            raise ProblemError(415, "unsupported_media_type", "Send the body as application/json, not compressed.")
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


def _too_large(limit: int) -> ProblemError:
    return ProblemError(413, "body_too_large", f"A body may have {limit:,} bytes here at most.")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for name, item in pairs:
        if name in value:
            raise ValueError(f"duplicate key {name!r}")
        value[name] = item
    return value


def _deeper_than(value: Any, depth: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return False
    return depth == 0 or any(_deeper_than(item, depth - 1) for item in value)
