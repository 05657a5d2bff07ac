"""What every answer carries: the request id and the headers, whatever the application does."""

import asyncio
from typing import Any
from uuid import UUID

import pytest
import structlog

from api.envelope import Envelope


async def _answer(scope: Any, receive: Any, send: Any) -> None:
    scope["state"]["method"] = scope["method"]
    scope["state"]["seen"] = structlog.contextvars.get_contextvars()["request_id"]
    scope["state"]["extra_headers"].append((b"ratelimit-limit", b"5"))
    headers = [(b"cache-control", b"no-store")] if scope["path"] == "/tokens" else []
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"one", "more_body": True})
    await send({"type": "http.response.body", "body": b"two"})


def sent(path: str = "/jobs", *ids: bytes, method: str = "GET") -> tuple[dict[str, str], list[Any], dict[str, Any]]:
    """Return the headers, all messages, and the scope's state of one request that brings these ids."""
    messages: list[Any] = []
    headers_sent = [(b"x-request-id", value) for value in ids]
    scope: dict[str, Any] = {"type": "http", "method": method, "path": path, "headers": headers_sent}

    async def send(message: Any) -> None:
        messages.append(message)

    asyncio.run(Envelope(_answer)(scope, None, send))  # type: ignore[arg-type]
    headers = [(name.decode(), value.decode()) for name, value in messages[0]["headers"]]
    assert len(headers) == len(dict(headers)), "no header twice"
    return dict(headers), messages, scope["state"]


@pytest.mark.parametrize("brought", [b"a", b"req-1.2_3", b"x" * 128])
def test_a_good_request_id_is_kept_and_is_in_the_log(brought: bytes) -> None:
    headers, _, state = sent("/jobs", brought)
    assert headers["x-request-id"] == state["seen"] == state["request_id"] == brought.decode()


@pytest.mark.parametrize(
    "ids", [[], [b""], [b"x" * 129], [b"with space"], [b"new\r\nline"], [b"new\n"], [b"\xc3\xa9"], [b"one", b"two"]]
)
def test_any_other_is_replaced_by_a_uuid(ids: list[bytes]) -> None:
    headers, _, _ = sent("/jobs", *ids)
    assert UUID(headers["x-request-id"]).version == 7


def test_a_stream_goes_through_piece_by_piece() -> None:
    _, messages, _ = sent()
    assert [message.get("body") for message in messages[1:]] == [b"one", b"two"]


def test_head_is_get_without_the_body_which_has_ended_at_once() -> None:
    headers, messages, state = sent(method="HEAD")
    assert state["method"] == "GET"
    assert headers == sent()[0] | {"x-request-id": headers["x-request-id"]}
    assert messages[1:] == [{"type": "http.response.body", "body": b"", "more_body": False}]


def test_every_answer_keeps_browsers_careful() -> None:
    headers, _, _ = sent()
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["cache-control"] == "private, no-cache"
    assert headers["ratelimit-limit"] == "5"
    assert not [name for name in headers if name.startswith("access-control-")]


def test_what_a_route_says_of_caching_stands() -> None:
    assert sent("/tokens")[0]["cache-control"] == "no-store"


def test_the_pages_of_the_documentation_may_load_their_scripts_and_no_frame_may_hold_them() -> None:
    policy = sent("/docs")[0]["content-security-policy"]
    assert "script-src 'self' 'unsafe-inline';" in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
