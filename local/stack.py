"""The local stack: one data directory, one port, and the children that make up the service."""

import errno
import os
import platform
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import httpx2
from pydantic_settings import BaseSettings, SettingsConfigDict

from local.children import Child, Command, StackError, wait_until
from local.directory import DataDirectory
from local.servers import Postgres, Valkey

_HOST = "127.0.0.1"
_SERVER_SECONDS = 60.0  # recovery after a crash included
_READY_SECONDS = 120.0
_WORKER_GRACE_SECONDS = 30.0  # a worker needs up to 25 s to end its runners
_WATCH_SECONDS = 0.2


class ExternalServers(BaseSettings):
    """Servers that somebody else runs; where one is named, the local one is not started."""

    model_config = SettingsConfigDict(frozen=True)

    database_url: str | None = None
    redis_url: str | None = None


class Stack:
    """Postgres, Valkey, workers, scheduler and API as children of this process.

    Children are named postgres, valkey, worker-1 to worker-N, scheduler and api, and are started in this order. Each
    can be killed and started again while the others go on. Everything is to be called from one thread.
    """

    def __init__(
        self,
        data_dir: Path,
        port: int = 0,
        *,
        slots: int = 1,
        workers: int = 1,
        environment: Mapping[str, str] | None = None,
        overrides_of: Mapping[str, Mapping[str, str]] | None = None,
        announce: Callable[[str], None] | None = None,
    ) -> None:
        """Describe a stack; nothing is started or written yet.

        `port` 0 is any free one, `slots` is how many jobs a worker runs at once, `environment` is added to that of
        every child, `overrides_of` to that of the children it names, and `announce` is called with a line for each
        child that was started.
        """
        self.port = port
        self._directory = DataDirectory(data_dir)
        self._slots = slots
        self._workers = [f"worker-{number}" for number in range(1, workers + 1)]
        self._overrides = dict(environment or {})
        self._overrides_of = dict(overrides_of or {})
        self._announce = announce
        external = ExternalServers()
        self._external_database = self._overrides.get("DATABASE_URL", external.database_url)
        self._external_broker = self._overrides.get("REDIS_URL", external.redis_url)
        self._postgres = Postgres(self._directory)
        self._valkey = Valkey(self._directory)
        self._servers: dict[str, Postgres | Valkey] = {"postgres": self._postgres, "valkey": self._valkey}
        self._port_guard: socket.socket | None = None
        self._children: dict[str, Child] = {}

    def start(self, *, services: bool = True) -> None:
        """Start everything and return when the API is ready; without `services`, only the servers and the migrations.

        Raises StackError, with nothing left running, if the port or the data directory is in use or a child ends.
        """
        try:
            self._port_guard = _reserve(self.port)
            self.port = self._port_guard.getsockname()[1]
            self._directory.open()
            if not self._external_database:
                self.start_child("postgres")
                self._postgres.ensure_database()
            if not self._external_broker:
                self.start_child("valkey")
            self.run_module("migrations")
            if services:
                for name in (*self._workers, "scheduler"):
                    self.start_child(name)
                self.start_api()
                self.check()
        except BaseException:
            self.stop()
            raise

    def start_api(self) -> None:
        """Make the admin's token if there is none, start the API, and return when it is ready; the servers run."""
        self.run_module("api.access.bootstrap", "--file", str(self._directory.admin_token), "--name", "local")
        self.start_child("api")
        self.wait_until_ready()

    def stop(self) -> None:
        """Stop every child in order and leave nothing behind but the data; nothing happens if nothing was started."""
        had_postgres = "postgres" in self._children
        with _undisturbed():
            for tier in (["api"], ["scheduler"], self._workers, ["valkey"], ["postgres"]):
                children = [self._children.pop(name) for name in tier if name in self._children]
                for child in children:
                    child.ask_to_stop()
                for child in children:
                    child.stop()
            if had_postgres:
                self._postgres.release_shared_memory()
            self._directory.close()
            self._free_port()

    def start_child(self, name: str) -> None:
        """Start a child; raise StackError if it is running already, or is a server that does not come to answer.

        Servers answer when this returns; for the API see `wait_until_ready`.
        """
        if name in self._children and self._children[name].running:
            raise StackError(f"{name} is running already")
        child = self._children[name] = Child(self._command(name), self._directory.log(name))
        if server := self._servers.get(name):
            wait_until(server.answers, watch=child.check, what=name, seconds=_SERVER_SECONDS)
        if self._announce is not None:
            self._announce(f"{name} is running (process {child.pid})")

    def kill_child(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a child's process alone; after SIGKILL, wait until it has ended."""
        self._children[name].send(number)
        if number == signal.SIGKILL:
            self._children[name].wait()

    def pid(self, name: str) -> int:
        """Return the process id of a child, also after its end."""
        return self._children[name].pid

    def is_running(self, name: str) -> bool:
        """Return whether a child was started and has not ended."""
        return name in self._children and self._children[name].running

    def wait_until_ready(self) -> None:
        """Return when the API finds database, broker and migrations fine; raise StackError after two minutes."""
        what = f"{self.base_url}/readyz (log: {self._directory.log('api')})"
        wait_until(self._is_ready, watch=self._children["api"].check, what=what, seconds=_READY_SECONDS)

    def check(self) -> None:
        """Raise StackError if a child has ended."""
        for child in self._children.values():
            child.check()

    def watch(self) -> NoReturn:
        """Never return: raise StackError when a child ends."""
        while True:
            self.check()
            time.sleep(_WATCH_SECONDS)

    def run_module(self, module: str, *arguments: str) -> None:
        """Run a Python module to its end against the stack's database; raise StackError unless it succeeds."""
        Child(self._python(module, module, *arguments), self._directory.log(module)).finish()

    @property
    def children(self) -> list[str]:
        """The names of the children that were started, in order."""
        return list(self._children)

    @property
    def artifacts(self) -> Path:
        """Where the workers keep checkpoints, a folder for each job."""
        return self._directory.artifacts

    @property
    def runtime(self) -> Path:
        """Where the sockets and temporary files of the children are while the stack runs."""
        return self._directory.runtime

    @property
    def admin_token(self) -> str:
        """The text of a token that may do everything; known once started, also kept in `<data-dir>/admin-token`."""
        return self._directory.admin_token.read_text().strip()

    def client(self, *, timeout: float) -> httpx2.Client:
        """Return a client of the API that sends the admin's token; `timeout` is in seconds."""
        headers = {"Authorization": f"Bearer {self.admin_token}"}
        return httpx2.Client(base_url=self.base_url, headers=headers, timeout=timeout, trust_env=False)

    @property
    def base_url(self) -> str:
        """Where the API listens."""
        return f"http://{_HOST}:{self.port}"

    @property
    def database_url(self) -> str:
        """The database's address, as SQLAlchemy reads it; known once started."""
        return self._external_database or self._postgres.url

    @property
    def redis_url(self) -> str:
        """The broker's address, as Celery reads it; known once started."""
        return self._external_broker or self._valkey.url

    def __enter__(self) -> Self:
        """Start everything."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop everything."""
        self.stop()

    def _command(self, name: str) -> Command:
        """Return how to run the child with this name."""
        if server := self._servers.get(name):
            return server.prepare()
        if name == "scheduler":
            return self._python(name, "worker.scheduler")
        if name == "api":
            self._free_port()
            return self._python(name, "api")
        return self._python(name, "worker", grace_seconds=_WORKER_GRACE_SECONDS)

    def _python(self, name: str, module: str, *arguments: str, grace_seconds: float = 10.0) -> Command:
        """Return how to run a module of ours; -P, because a script in the working directory may bear the same name."""
        return Command(
            name=name,
            arguments=[sys.executable, "-P", "-m", module, *arguments],
            environment=self._environment(name),
            directory=self._directory.path,
            grace_seconds=grace_seconds,
        )

    def _environment(self, name: str) -> dict[str, str]:
        """Return a child's environment: ours, less what leads libpq or Python astray, and the service's settings."""
        everything = os.environ  # noqa: TID251 - a child inherits, and here alone
        ours = {key: value for key, value in everything.items() if key != "PYTHONPATH" and not key.startswith("PG")}
        return {
            **ours,
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(self._directory.runtime),  # what a killed worker leaves there goes with it
            "TRAINYARD_ENVIRONMENT": "development",
            "TRAINYARD_HOST": _HOST,
            "TRAINYARD_PORT": str(self.port),
            "TRAINYARD_SLOTS": str(self._slots),
            "TRAINYARD_ARTIFACTS_DIR": str(self._directory.artifacts),
            "TRAINYARD_DATASETS_DIR": str(self._directory.datasets),
            "TRAINYARD_WORKER_NAME": f"{platform.node()}-{name.removeprefix('worker-')}",
            **self._overrides,
            **self._overrides_of.get(name, {}),
        }

    def _is_ready(self) -> bool:
        try:
            answer = httpx2.get(f"{self.base_url}/readyz", timeout=5.0, trust_env=False)
        except httpx2.TransportError:
            return False
        # Migrated it is: what the API does not know is of a later version, on which it works.
        return answer.status_code == HTTPStatus.OK or answer.json()["code"] == "not_migrated"

    def _free_port(self) -> None:
        if self._port_guard is not None:
            self._port_guard.close()
            self._port_guard = None


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait, so that an impatient Ctrl-C leaves nothing running."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _reserve(port: int) -> socket.socket:
    """Return a socket that holds the port until the API takes it over; raise StackError if it is taken."""
    guard = socket.socket()
    guard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the API does
    try:
        guard.bind((_HOST, port))
    except OSError as error:
        guard.close()
        problem = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise StackError(f"port {port} {problem}: choose another one") from error
    return guard
