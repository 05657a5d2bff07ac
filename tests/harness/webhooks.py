"""Receivers of webhooks, which are real servers, and the webhooks of a user as that user sees them."""

import json
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Received:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.body)
        return message


Answer = Callable[[BaseHTTPRequestHandler], None]


class Receiver:
    """A server on a port of this machine; its answers are taken in turn, the last one for ever."""

    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Received] = []
        self.answers: list[Answer] = [status(204)]
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                self.received = Received(self.path, headers, body)
                receiver._take(self.received)(self)

            do_GET = do_PUT = do_POST  # noqa: N815 - http.server's names

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                pass  # a sender that was killed, or went away

        self._server = Server(("127.0.0.1", port), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [request.message for request in self.requests]

    def wait(self, count: int, seconds: float = 30) -> list[Received]:
        """Return what has come as soon as there are `count` requests."""
        deadline = time.monotonic() + seconds
        while len(self.requests) < count:
            assert time.monotonic() < deadline, f"{len(self.requests)} of {count} requests within {seconds} s"
            time.sleep(0.02)
        return list(self.requests)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _take(self, request: Received) -> Answer:
        with self._lock:
            self.requests.append(request)
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def status(code: int, body: bytes = b"", **headers: str) -> Answer:
    """Return an answer with this status."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


class Hook:
    """A webhook, and what became of its deliveries."""

    def __init__(self, http: Any, url: str, *events: str) -> None:
        self.http = http
        answer = http.post("/webhooks", json={"url": url, "events": list(events) or ["job.queued", "job.cancelled"]})
        assert answer.status_code == 201, answer.text
        self.path = str(answer.headers["location"])

    def view(self) -> dict[str, Any]:
        view: dict[str, Any] = self.http.get(self.path).json()
        return view

    def ping(self) -> dict[str, Any]:
        return self._ask_for(f"{self.path}/test")

    def redeliver(self, delivery: dict[str, Any]) -> dict[str, Any]:
        return self._ask_for(f"{self.path}/deliveries/{delivery['id']}/redeliver")

    def deliveries(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.http.get(f"{self.path}/deliveries", params={"limit": 100}).json()["items"]
        return items

    def settled(self, count: int = 1, seconds: float = 30) -> list[dict[str, Any]]:
        """Return the deliveries, newest first, when there are `count` and none is pending any more."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.deliveries()
            if len(found) == count and all(delivery["status"] != "pending" for delivery in found):
                return found
            assert time.monotonic() < deadline, found
            time.sleep(0.05)

    def _ask_for(self, path: str) -> dict[str, Any]:
        answer = self.http.post(path)
        assert answer.status_code == 202, answer.text
        delivery: dict[str, Any] = answer.json()
        return delivery
