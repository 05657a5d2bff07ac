"""How the API reads HTTP: by uvicorn, with bounds on what a head may hold and on the time a request takes to arrive."""

import asyncio
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from api.envelope import ALWAYS, request_id_of
from api.problems import problem

_MAX_HEAD_BYTES = 32_768  # the longest of our own, 50 ids to compare, has 3,000


def bounded_protocol(request_seconds: float) -> type[HttpToolsProtocol]:
    """Return the protocol that gives each request this time to arrive, its body included."""

    class Bounded(_BoundedProtocol):
        seconds = request_seconds

    return Bounded


class _BoundedProtocol(HttpToolsProtocol):
    """One connection. What cannot be read is answered with a problem too, and ends it.

    uvicorn bounds neither the size of a head nor the time until a request is complete, and answers what it cannot read
    in plain text, also before an earlier request of the connection has been answered.
    """

    seconds: float

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._timer: asyncio.TimerHandle | None = None
        self._is_in_head = True
        self._head_bytes = 0
        self._is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, unless the connection is about to end."""
        if self._is_refused:
            return
        if self._timer is None:
            self._start_timer()
        if self._is_in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._is_in_head and self._head_bytes > _MAX_HEAD_BYTES:
            self._refuse_head()

    def on_headers_complete(self) -> None:
        """Begin to answer, unless the head says that nothing good can follow."""
        if self._is_refused:
            return
        version = self.parser.get_http_version()
        hosts = sum(name == b"host" for name, _ in self.headers)
        # As they came, with `: ` and a line break each.
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > _MAX_HEAD_BYTES:
            self._refuse_head()
        elif version not in ("1.0", "1.1"):
            self._refuse(400, "malformed_request", "Speak HTTP/1.1.")
        elif hosts > 1 or (hosts == 0 and version == "1.1"):  # RFC 9112, section 3.2
            self._refuse(400, "malformed_request", "Send one Host header.")
        else:
            super().on_headers_complete()
            self._is_in_head = False

    def on_body(self, body: bytes) -> None:
        """Hand over a piece of the body."""
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Begin to wait for the next request."""
        if self._is_refused:
            return
        self._is_in_head, self._head_bytes = True, 0
        self._stop_timer()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser does not take."""
        self._refuse(400, "malformed_request", "This is not HTTP as the service reads it.")

    def _refuse_head(self) -> None:
        detail = f"Request line and headers may have {_MAX_HEAD_BYTES:,} bytes at most."
        self._refuse(431, "headers_too_large", detail)

    def _refuse(self, status: int, code: str, detail: str) -> None:
        """Answer with a problem if there is nothing else to answer, and close; what comes further is not read."""
        self._is_refused = True
        self._stop_timer()
        cycle = self.cycle
        if self._is_in_head:
            if cycle is not None and not cycle.response_complete:
                cycle.keep_alive = False  # the request before this one gets its answer, and then it ends
                return
        elif self.pipeline or cycle.response_started:
            self.transport.close()
            return
        else:
            cycle.disconnected = True  # it waits for the rest of its body, and is to stop
            cycle.message_event.set()
        answer = problem(status, code, detail)
        request_id = request_id_of(self.headers or ())
        headers = [*answer.raw_headers, *ALWAYS, (b"x-request-id", request_id.encode()), (b"connection", b"close")]
        head = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[status], head, bytes(answer.body)))
        self.transport.close()

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(self.seconds, self._time_is_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_is_up(self) -> None:
        if self.flow.read_paused:
            self._start_timer()  # it is we who do not read
        elif self._is_in_head and not self._head_bytes:
            self.transport.close()  # nothing has begun
        else:
            self._refuse(408, "request_timeout", f"The request did not arrive within {self.seconds:g} s.")
