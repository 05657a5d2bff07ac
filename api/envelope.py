"""What every answer carries, errors of the server included: a request id and the headers that keep browsers careful."""

import re
from collections.abc import Iterable

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils.compat import uuid7

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_PAGES = ("/docs", "/redoc")

ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_POLICY = b"default-src 'none'; frame-ancestors 'none'"
_PAGE_POLICY = (
    b"default-src 'none'; connect-src 'self'; frame-ancestors 'none'; "
    b"script-src 'self' 'unsafe-inline'; worker-src blob:; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
)
# An answer may be kept by its caller alone, and asked for again before it is used again.
_CACHE = (b"cache-control", b"private, no-cache")


class Envelope:
    """ASGI middleware around the whole application; it adds headers, and never touches a body but to leave it out.

    HEAD is answered as GET is, without the body; a stream has then ended, as for a reader who goes away.

    `request.state.request_id` is the id; what a route puts into `request.state.extra_headers` is sent with any answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(scope["headers"])
        is_head = scope["method"] == "HEAD"
        extra: list[tuple[bytes, bytes]] = []
        scope.setdefault("state", {}).update(request_id=request_id, extra_headers=extra)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), *ALWAYS, *extra, (b"x-request-id", request_id.encode())]
                names = {name for name, _ in headers}
                if b"cache-control" not in names:
                    headers.append(_CACHE)
                headers.append((b"content-security-policy", _PAGE_POLICY if _is_page(scope) else _POLICY))
                message["headers"] = headers
            elif is_head:
                return
            await send(message)
            if is_head:
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self._app({**scope, "method": "GET"} if is_head else scope, receive, send_with_headers)


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the id that the request brings, where it brings one good one, else a new one."""
    brought = [value for name, value in headers if name == b"x-request-id"]
    if len(brought) == 1 and _REQUEST_ID.fullmatch(brought[0]):
        return brought[0].decode()
    return str(uuid7())


def _is_page(scope: Scope) -> bool:
    return str(scope["path"]).startswith(_PAGES)
