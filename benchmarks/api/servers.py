"""The three servers, on databases of their own in one Postgres: our stack without workers, MLflow, and the bare one."""

import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import httpx2
import psycopg
from sqlalchemy.engine import URL, make_url

from benchmarks.api import bare
from benchmarks.api.client import HOST
from local.children import Child, Command, StackError, wait_until
from local.stack import Stack

_MLFLOW_HOME = Path(sys.prefix) / "mlflow"  # a virtual environment inside ours; `make bench-api` makes it
_MLFLOW_WORKERS = 4
_READY_SECONDS = 120.0
# Only `uvicorn[standard]` brings uvloop and httptools, and MLflow does not ask for it: these options undo it.
_UVICORN = {"as installed": "--loop asyncio --http h11", "with uvloop": "--loop uvloop --http httptools"}
MLFLOWS = tuple(_UVICORN)
_NO_LIMITS = {"TRAINYARD_RATE_LIMIT_PER_MINUTE": "1000000", "TRAINYARD_RATE_LIMIT_BURST": "1000000"}


@dataclass(frozen=True)
class Server:
    """Where one listens, and its database as libpq reads it."""

    port: int
    database_url: str


@dataclass(frozen=True)
class Ours(Server):
    """Our API: as SQLAlchemy reads its database, the one process, and what its requests carry."""

    sqlalchemy_url: str
    pid: int
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Servers:
    """All that run; MLflow may be left out."""

    ours: Ours
    bare: Server
    mlflow: Server | None

    @classmethod
    @contextmanager
    def started(cls, folder: Path, mlflow: str | None) -> Iterator["Servers"]:
        """Start all in a folder, MLflow in one of the ways of MLFLOWS or not at all, and end them.

        Raises StackError where one does not start.
        """
        stack = Stack(folder / "ours", environment=_NO_LIMITS)
        with ExitStack() as running:
            running.callback(stack.stop)
            stack.start(services=False)  # no worker: nothing trains meanwhile
            stack.start_api()
            address = make_url(stack.database_url)
            least = running.enter_context(_bare(folder, _new_database(address, "bare")))
            theirs = (
                running.enter_context(_mlflow(folder, _new_database(address, "mlflow"), mlflow)) if mlflow else None
            )
            headers = {"Authorization": f"Bearer {stack.admin_token}"}
            ours = Ours(stack.port, _libpq(address), stack.database_url, stack.pid("api"), headers)
            yield cls(ours, least, theirs)


def mlflow_version() -> str:
    """Return that of the MLflow which is measured; raise StackError where there is none."""
    found = list(_MLFLOW_HOME.glob("lib/python*/site-packages/mlflow-*.dist-info"))
    if not found:
        raise StackError("MLflow is not installed: `make bench-api` does that, or pass --without-mlflow")
    return found[0].name.removeprefix("mlflow-").removesuffix(".dist-info")


@contextmanager
def _bare(folder: Path, address: URL) -> Iterator[Server]:
    server = Server(_free_port(), _libpq(address))
    with psycopg.connect(server.database_url) as connection:
        connection.execute(bare.SCHEMA)
    arguments = [sys.executable, "-P", "-m", bare.__name__, str(server.port), server.database_url]
    with _running(Command(name="bare", arguments=arguments, environment={}, directory=folder), server, "/openapi.json"):
        yield server


@contextmanager
def _mlflow(folder: Path, address: URL, how: str) -> Iterator[Server]:
    """MLflow as its documentation advises for a team, without what else it would do meanwhile."""
    server = Server(_free_port(), _libpq(address))
    uri = address.set(drivername="postgresql+psycopg2").render_as_string(hide_password=False)
    options = {
        "--host": HOST,
        "--port": str(server.port),
        "--workers": str(_MLFLOW_WORKERS),
        "--backend-store-uri": uri,
        "--artifacts-destination": str(folder / "artifacts"),
        "--uvicorn-opts": _UVICORN[how],
    }
    command = Command(
        name="mlflow",
        arguments=[
            str(_MLFLOW_HOME / "bin" / "mlflow"),
            "server",
            *(part for pair in options.items() for part in pair),
        ],
        environment={
            "PATH": os.pathsep.join([str(_MLFLOW_HOME / "bin"), os.defpath]),
            "HOME": str(folder),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        },
        directory=folder,
    )
    with _running(command, server, "/health"):
        yield server


@contextmanager
def _running(command: Command, server: Server, path: str) -> Iterator[None]:
    """Run a server once this path of it answers, and end it with all its processes."""
    url = f"http://{HOST}:{server.port}{path}"

    def answers() -> bool:
        try:
            return httpx2.get(url, timeout=5.0, trust_env=False).status_code == HTTPStatus.OK
        except httpx2.TransportError:
            return False

    child = Child(command, command.directory / f"{command.name}.log")
    try:
        wait_until(answers, watch=child.check, what=command.name, seconds=_READY_SECONDS)
        yield
    finally:
        child.stop()


def _new_database(address: URL, name: str) -> URL:
    with psycopg.connect(_libpq(address), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return address.set(database=name)


def _libpq(address: URL) -> str:
    return address.set(drivername="postgresql").render_as_string(hide_password=False)


def _free_port() -> int:
    with socket.socket() as finder:
        finder.bind((HOST, 0))
        port: int = finder.getsockname()[1]
        return port
