"""A way to Postgres that can be cut: a proxy on a Unix socket that reads what passes, and can lose an answer."""

import selectors
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from sqlalchemy.engine import make_url

_SOCKET = ".s.PGSQL.5432"
_READ = 65_536
_LOOK_SECONDS = 0.05
_HEADER = 5  # of a message: its type, and its length without the type
_QUERY, _PARSE, _BIND = b"Q", b"P", b"B"


@dataclass
class Drop:
    """The order to lose the answer to one COMMIT, and whether that has happened."""

    containing: str
    passes: int
    happened: threading.Event = field(default_factory=threading.Event)

    def wait(self, seconds: float = 60) -> None:
        """Return when the answer was lost: the transaction is committed, and its client was told nothing."""
        assert self.happened.wait(seconds), f"nothing that contains {self.containing!r} was committed"


class Proxy:
    """Between some children of a stack and its Postgres, as long as it is entered."""

    def __init__(self) -> None:
        """Listen on a socket of its own; until `forward_to` there is nothing behind it."""
        self._directory = Path(tempfile.mkdtemp(prefix="proxy-"))
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._directory / _SOCKET))
        self._listener.listen(64)
        self._listener.settimeout(_LOOK_SECONDS)
        self._upstream: str | None = None
        self._is_cut = False
        self._ended = False
        self._drop: Drop | None = None
        self._lock = threading.Lock()
        self._links: list[_Link] = []
        self._acceptor = threading.Thread(target=self._accept_until_ended, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        self._acceptor.join()
        self._end_links()
        self._listener.close()
        shutil.rmtree(self._directory)

    @property
    def url(self) -> str:
        """The database's address for who is to come this way."""
        return f"postgresql+psycopg://trainyard@/trainyard?host={quote(str(self._directory), safe='/')}"

    def forward_to(self, database_url: str) -> None:
        """Connect from now on to the server behind this address, which is that of a socket."""
        host = make_url(database_url).query["host"]
        self._upstream = f"{host}/{_SOCKET}"

    def cut(self) -> None:
        """Break all connections, and take no new one."""
        with self._lock:
            self._is_cut = True
        self._end_links()

    def heal(self) -> None:
        """Take connections again."""
        with self._lock:
            self._is_cut = False

    @contextmanager
    def away(self) -> Iterator[None]:
        """Cut the way for the body."""
        self.cut()
        try:
            yield
        finally:
            self.heal()

    def drop_at_commit(self, containing: str, *, passes: int = 0) -> Drop:
        """Forward the next COMMIT of a transaction with such a statement, after `passes` others, and lose its answer.

        The connection is closed once Postgres has said that the transaction is committed.
        """
        with self._lock:
            self._drop = Drop(containing, passes)
            return self._drop

    def is_to_be_lost(self, statements: list[str]) -> Drop | None:
        """Return the order to lose the answer to the COMMIT of these statements, if there is one."""
        with self._lock:
            drop = self._drop
            if drop is None or not any(drop.containing in statement for statement in statements):
                return None
            drop.passes -= 1
            if drop.passes >= 0:
                return None
            self._drop = None
            return drop

    def _accept_until_ended(self) -> None:
        while not self._ended:
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            with self._lock:
                link = None if self._is_cut or self._upstream is None else self._link(client, self._upstream)
                self._links = [one for one in self._links if one.is_alive()]
                if link is not None:
                    self._links.append(link)
                    link.start()
            if link is None:
                client.close()

    def _link(self, client: socket.socket, upstream: str) -> "_Link | None":
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(upstream)
        except OSError:
            server.close()
            return None
        return _Link(self, client, server)

    def _end_links(self) -> None:
        with self._lock:
            links, self._links = self._links, []
        for link in links:
            link.end()
            link.join()


class _Link(threading.Thread):
    """One connection: it forwards bytes both ways and knows which statements its transaction has."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        super().__init__(name="proxy link", daemon=True)
        self._proxy, self._client, self._server = proxy, client, server
        self._ending = False
        self._buffer = b""
        self._has_begun = False  # the first message has no type
        self._prepared: dict[bytes, str] = {}
        self._statements: list[str] = []

    def end(self) -> None:
        """Let the thread close both ends."""
        self._ending = True

    def run(self) -> None:
        with self._client, self._server, selectors.DefaultSelector() as selector, suppress(OSError):
            selector.register(self._client, selectors.EVENT_READ)
            selector.register(self._server, selectors.EVENT_READ)
            while not self._ending:
                for key, _ in selector.select(_LOOK_SECONDS):
                    content = key.fileobj.recv(_READ)  # type: ignore[union-attr]
                    if not content:
                        return
                    if key.fileobj is self._server:
                        self._client.sendall(content)
                    elif (drop := self._read(content)) is not None:
                        self._lose_answer(content, drop)
                        return
                    else:
                        self._server.sendall(content)

    def _lose_answer(self, content: bytes, drop: Drop) -> None:
        self._server.sendall(content)
        assert self._server.recv(_READ).startswith(b"C"), "the server completes the command"
        drop.happened.set()

    def _read(self, content: bytes) -> Drop | None:
        """Take note of the whole messages; return the order to lose the answer to the last, if there is one."""
        self._buffer += content
        drop = None
        while (message := self._next_message()) is not None:
            kind, body = message
            if kind == _QUERY:
                command = body.rstrip(b"\0").decode()
                if command == "COMMIT":
                    drop = self._proxy.is_to_be_lost(self._statements)
                if command in ("COMMIT", "ROLLBACK") or command.startswith("BEGIN"):
                    self._statements = []
            elif kind == _PARSE:
                name, query, _ = body.split(b"\0", 2)
                self._prepared[name] = query.decode()
            elif kind == _BIND:
                _, name, _ = body.split(b"\0", 2)
                self._statements.append(self._prepared.get(name, ""))
        return drop

    def _next_message(self) -> tuple[bytes, bytes] | None:
        header = _HEADER if self._has_begun else _HEADER - 1
        if len(self._buffer) < header:
            return None
        length = int.from_bytes(self._buffer[header - 4 : header]) + header - 4
        if len(self._buffer) < length:
            return None
        message, self._buffer = self._buffer[:length], self._buffer[length:]
        kind, self._has_begun = (message[:1] if self._has_begun else b""), True
        return kind, message[header:]
