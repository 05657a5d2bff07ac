"""Hostile bytes on a connection: garbage, smuggling, slow and endless requests, each answered exactly so or cut off."""

import json
import socket
import time
from http.client import HTTPResponse
from typing import Any

import pytest

HOST = b"Host: x\r\n"
JSON = b"Content-Type: application/json\r\n"
SPEC = b'{"dataset": {"name": "digits"}, "network": {"name": "mlp"}}'
REQUEST_SECONDS = 2


def post(headers: bytes, body: bytes = b"", start: bytes = b"POST /jobs HTTP/1.1\r\n") -> bytes:
    return start + HOST + JSON + b"TOKEN\r\n" + headers + b"\r\n" + body


def get(headers: bytes = b"", start: bytes = b"GET /jobs HTTP/1.1\r\n", host: bytes = HOST) -> bytes:
    return start + host + b"TOKEN\r\n" + headers + b"\r\n"


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + end


BAD = (400, "malformed_request")
REQUESTS: dict[str, tuple[bytes, int, str | None]] = {
    "garbage": (b"\x00\x01\x02\xff\r\n\r\n", *BAD),
    "the greeting of TLS": (bytes.fromhex("16030100c8010000c40303") + b"\0" * 64, *BAD),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", *BAD),
    "HTTP/0.9": (b"GET /jobs\r\n\r\n", *BAD),
    "HTTP/9.9": (get(start=b"GET /jobs HTTP/9.9\r\n"), *BAD),
    "HTTP/1.0": (get(start=b"GET /jobs HTTP/1.0\r\n"), 200, None),
    "HTTP/1.0 without a host": (get(start=b"GET /jobs HTTP/1.0\r\n", host=b""), 200, None),
    "HTTP/1.1 without a host": (get(host=b""), *BAD),
    "two hosts": (get(host=HOST + b"Host: y\r\n"), *BAD),
    "an unknown method": (get(start=b"STEAL /jobs HTTP/1.1\r\n"), *BAD),
    "a method in small letters": (get(start=b"get /jobs HTTP/1.1\r\n"), *BAD),
    "CONNECT": (get(start=b"CONNECT evil.example:443 HTTP/1.1\r\n"), *BAD),
    "the asterisk form": (get(start=b"OPTIONS * HTTP/1.1\r\n"), 404, "not_found"),
    "the absolute form": (get(start=b"GET http://x/jobs HTTP/1.1\r\n"), 200, None),
    "the absolute form of others": (get(start=b"GET http://evil.example/no HTTP/1.1\r\n"), 404, "not_found"),
    "a path of raw bytes": (get(start=b"GET /jobs/\xc3\xa9 HTTP/1.1\r\n"), *BAD),
    "NUL in the path": (get(start=b"GET /jobs/\x00 HTTP/1.1\r\n"), *BAD),
    "a space in the path": (get(start=b"GET /jobs /x HTTP/1.1\r\n"), *BAD),
    "two tokens": (get(b"TOKEN\r\n"), 401, "unauthenticated"),
    "two keys": (
        post(b"Content-Length: 59\r\nIdempotency-Key: a\r\nIdempotency-Key: b\r\n", SPEC), 422, "invalid_request",
    ),
    "a line break in the request's id": (get(b"X-Request-ID: a\r\n\tb\r\n"), *BAD),
    "a header smuggled by a bare carriage return": (get(b"X-Request-ID: a\rSet-Cookie: b\r\n"), *BAD),
    "NUL in a header": (get(b"X-Request-ID: a\x00b\r\n"), *BAD),
    "a space before a colon": (get(b"Content-Length : 0\r\n"), *BAD),
    "a header without a colon": (get(b"nothing\r\n"), *BAD),
    "a line of 100,000 bytes": (get(start=b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n"), 431, "headers_too_large"),
    "a header of 100,000 bytes": (get(b"X: " + b"a" * 100_000 + b"\r\n"), 431, "headers_too_large"),
    "10,000 headers": (get(b"X: y\r\n" * 10_000), 431, "headers_too_large"),
    "an endless header": (b"GET /jobs HTTP/1.1\r\nX: " + b"a" * 1_000_000, 431, "headers_too_large"),
    "a length and chunks": (post(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", chunked(SPEC)), *BAD),
    "two lengths": (post(b"Content-Length: 2\r\nContent-Length: 59\r\n", SPEC), *BAD),
    "a length of minus 1": (post(b"Content-Length: -1\r\n", SPEC), *BAD),
    "a length of two": (post(b"Content-Length: 2, 59\r\n", SPEC), *BAD),
    "chunks that are none": (post(b"Transfer-Encoding: chunked\r\n", b"garbage\r\n\r\n"), *BAD),
    "a chunk longer than it says": (post(b"Transfer-Encoding: chunked\r\n", b"2\r\n{}}}\r\n0\r\n\r\n"), *BAD),
    "an encoding that there is not": (post(b"Transfer-Encoding: gzip\r\n", SPEC), *BAD),
    "a mebibyte in chunks": (
        post(b"Transfer-Encoding: chunked\r\n", chunked(*[b" " * 60_000] * 20)), 413, "body_too_large",
    ),
    "a wish to become a web socket": (get(b"Connection: Upgrade\r\nUpgrade: websocket\r\n"), 200, None),
    "a wish to go on": (post(b"Expect: 100-continue\r\nContent-Length: 4\r\n", b"null"), 422, "invalid_spec"),
    "an unfinished head": (b"GET /jobs HTTP/1.1\r\nHost: x\r\n", 408, "request_timeout"),
    "an unfinished body": (post(b"Content-Length: 59\r\n", SPEC[:20]), 408, "request_timeout"),
    "an unfinished chunk": (post(b"Transfer-Encoding: chunked\r\n", b"100\r\nabc"), 408, "request_timeout"),
}  # fmt: skip


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    """A service without workers that gives a request little time to arrive."""
    return start_service(workers=0, rate_limit_burst=100_000, request_timeout_seconds=REQUEST_SECONDS)


@pytest.fixture
def connect(service: Any) -> Any:
    """Open a connection; it is closed at the end, and the service must be alive then."""
    opened: list[socket.socket] = []

    def to_service() -> socket.socket:
        opened.append(socket.create_connection(("127.0.0.1", service.stack.port), timeout=20))
        return opened[-1]

    yield to_service
    for connection in opened:
        connection.close()
    assert service.http.get("/healthz").status_code == 200


pytestmark = pytest.mark.usefixtures("nothing_changes")


@pytest.mark.parametrize(("sent", "status", "code"), REQUESTS.values(), ids=REQUESTS)
def test_hostile_bytes_are_answered_exactly_so(
    service: Any, connect: Any, sent: bytes, status: int, code: str | None
) -> None:
    connection = connect()
    send(connection, signed(service, sent))
    answer, content = answer_of(connection)
    assert (answer.status, json.loads(content).get("code")) == (status, code)
    assert answer.headers["x-request-id"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "set-cookie" not in answer.headers
    if code is not None:
        assert answer.headers["content-type"] == "application/problem+json"
    if status in {400, 408, 431}:
        assert is_closed(connection)


def test_garbage_after_a_good_request_takes_its_answer_from_nobody(service: Any, connect: Any) -> None:
    for garbage in (b"\x00\x01garbage\r\n\r\n", b"X" * 100_000, signed(service, get(b"nothing\r\n"))):
        connection = connect()
        send(connection, signed(service, get()) + garbage)
        answer, content = answer_of(connection)
        assert (answer.status, json.loads(content)["items"]) == (200, [])
        assert not connection.recv(65_536).startswith(b"HTTP/1.1 2")


def test_pipelined_requests_are_answered_in_their_order(service: Any, connect: Any) -> None:
    connection = connect()
    targets = ("/healthz", "/nowhere", "/me")
    send(connection, signed(service, b"".join(get(start=b"GET %b HTTP/1.1\r\n" % path.encode()) for path in targets)))
    stream = connection.makefile("rb")
    answers = [answer_of(connection, stream) for _ in targets]
    assert [json.loads(content).get("status", "me") for _, content in answers] == ["alive", 404, "me"]


@pytest.mark.parametrize(
    "start",
    [
        b"GET /jobs HTTP/1.1\r\nHost: x\r\nX: ",
        post(b"Content-Length: 500000\r\n"),
        post(b"Transfer-Encoding: chunked\r\n"),
    ],
    ids=["a head", "a body", "chunks"],
)
def test_a_request_that_drips_is_ended_in_time(service: Any, connect: Any, start: bytes) -> None:
    connection = connect()
    send(connection, signed(service, start))
    connection.settimeout(0.1)
    received, drip = b"", b"1\r\n \r\n" if b"chunked" in start else b" "
    deadline = time.monotonic() + 10 * REQUEST_SECONDS
    while not received:
        assert time.monotonic() < deadline, "each byte must not win more time"
        send(connection, drip)
        try:
            received = connection.recv(65_536)
        except TimeoutError:
            continue
    assert received.startswith(b"HTTP/1.1 408 ")


def test_a_connection_that_says_nothing_is_closed_without_a_word(connect: Any) -> None:
    assert connect().recv(1) == b""


def test_a_refused_body_that_goes_on_dripping_is_cut_off(service: Any, connect: Any) -> None:
    connection = connect()
    send(connection, signed(service, post(b"Content-Length: 100000000\r\n", b"{")))
    answer, content = answer_of(connection)
    assert (answer.status, json.loads(content)["code"]) == (413, "body_too_large")
    connection.settimeout(0.1)
    deadline = time.monotonic() + 10 * REQUEST_SECONDS
    while not is_closed(connection):
        assert time.monotonic() < deadline
        send(connection, b" ")


def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_error_of_the_service(service: Any, connect: Any) -> None:
    connection = connect()
    send(connection, signed(service, post(b"Content-Length: 1000\r\nX-Request-ID: left-early\r\n", b"{")))
    connection.close()
    connect()
    assert service.http.get("/healthz").status_code == 200
    assert "unexpected_error" not in service.log("api")
    assert "Traceback" not in service.log("api")


def signed(service: Any, content: bytes) -> bytes:
    return content.replace(b"TOKEN", f"Authorization: Bearer {service.stack.admin_token}".encode())


def is_closed(connection: socket.socket) -> bool:
    """Return whether the service has closed the connection, which has nothing to read; wait as long as it allows."""
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True  # it had not read everything


def send(connection: socket.socket, content: bytes) -> None:
    try:
        connection.sendall(content)
    except (BrokenPipeError, ConnectionResetError):
        return  # it has been answered already


def answer_of(connection: socket.socket, stream: Any = None) -> tuple[Any, bytes]:
    """Return the answer that comes now, past one that says to go on; `stream` is where the ones before were read."""
    answer = HTTPResponse(connection)
    if stream is not None:
        answer.fp = stream
    answer.begin()
    length = int(answer.headers.get("content-length", 0))
    return answer, answer.fp.read(length) if length else answer.read()
