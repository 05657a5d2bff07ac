"""What tests share: the whole service as real processes, on a database and a broker of its own."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import psutil
import psycopg
import pytest
from jsonschema import Draft202012Validator
from psycopg import sql
from psycopg.rows import dict_row
from pydantic_settings import BaseSettings
from sqlalchemy.engine import make_url

from local.children import Child, wait_until
from local.stack import Stack

FINAL = {"succeeded", "failed", "cancelled"}
DIGITS_MLP: dict[str, Any] = {"dataset": {"name": "digits"}, "network": {"name": "mlp"}}


class External(BaseSettings):
    """Servers named in the environment; each test stack then gets a database and a key prefix of its own there."""

    database_url: str | None = None
    redis_url: str | None = None


class Service:
    """A running stack, as a user and as somebody who may look into its database sees it."""

    def __init__(self, stack: Stack, data_dir: Path) -> None:
        self.stack = stack
        self.data_dir = data_dir
        self._clients: list[httpx2.Client] = []
        self.http = self.client(stack.admin_token)

    def client(self, token: str) -> httpx2.Client:
        """Return a client that sends this token."""
        return self._client({"Authorization": f"Bearer {token}"})

    def anonymous(self) -> httpx2.Client:
        """Return a client that sends no token."""
        return self._client({})

    def new_user(self, name: str, role: str = "member") -> str:
        """Make a user; return a token of theirs with every scope that the role allows."""
        assert self.http.post("/users", json={"name": name, "role": role}).status_code == 201
        scopes = ["read", "write", *(["admin"] if role == "admin" else [])]
        answer = self.http.post("/tokens", json={"name": "test", "user": name, "scopes": scopes})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])

    def log(self, name: str) -> str:
        """Return what a child has logged so far."""
        return (self.data_dir / "logs" / f"{name}.log").read_text()

    @contextmanager
    def another_api(self, **settings: object) -> Iterator["OtherApi"]:
        """Run one more API process on the same database, with settings of its own."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        changes = {"port": port} | settings
        environment = {f"TRAINYARD_{name.upper()}": str(value) for name, value in changes.items()}
        command = self.stack._python("api", "api")
        command = replace(command, environment=command.environment | environment)
        log = self.data_dir / "logs" / f"api-{port}.log"
        child = Child(command, log)
        try:
            api = OtherApi(f"http://127.0.0.1:{port}", child.pid, log)
            wait_until(api.is_ready, watch=child.check, what="the other API", seconds=60)
            yield api
        finally:
            child.stop()

    def close(self) -> None:
        for client in self._clients:
            client.close()

    def _client(self, headers: dict[str, str]) -> httpx2.Client:
        self._clients.append(httpx2.Client(base_url=self.stack.base_url, headers=headers, timeout=40, trust_env=False))
        return self._clients[-1]

    def submit(self, spec: dict[str, Any]) -> str:
        answer = self.http.post("/jobs", json=spec)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        view: dict[str, Any] = self.http.get(f"/jobs/{job_id}").json()
        return view

    def wait_for(self, job_id: str, reached: Callable[[dict[str, Any]], bool], seconds: float = 60) -> dict[str, Any]:
        """Poll the job until `reached`, for at most `seconds`; the API may be away meanwhile."""
        deadline = time.monotonic() + seconds
        view: dict[str, Any] = {}
        while time.monotonic() < deadline:
            try:
                view = self.job(job_id)
                if "status" in view and reached(view):
                    return view
            except httpx2.TransportError as error:
                view = {"unreachable": str(error)}
            time.sleep(0.02)
        raise AssertionError(f"not reached within {seconds} s: {view}")

    def wait_for_end(self, job_id: str, seconds: float = 90) -> dict[str, Any]:
        return self.wait_for(job_id, lambda view: view["status"] in FINAL, seconds)

    def wait_for_epoch(self, job_id: str, epoch: int) -> dict[str, Any]:
        return self.wait_for(job_id, lambda view: view["progress"]["epoch"] >= epoch)

    def epochs(self, job_id: str) -> list[dict[str, Any]]:
        epochs: list[dict[str, Any]] = self.http.get(f"/jobs/{job_id}/metrics").json()["epochs"]
        return epochs

    def rows(self, query: str, *parameters: object) -> list[dict[str, Any]]:
        """Ask the database itself."""
        url = make_url(self.stack.database_url).set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url, row_factory=dict_row, autocommit=True) as connection:
            cursor = connection.execute(query.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def runner_pid(self, worker: str = "worker-1", seconds: float = 30) -> int:
        """Return the process id of the one runner of a worker: a child of its forkserver."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for child in psutil.Process(self.stack.pid(worker)).children():
                for runner in child.children():
                    return int(runner.pid)
            time.sleep(0.02)
        raise AssertionError("no runner was started")


class OtherApi:
    """One more API process."""

    def __init__(self, base_url: str, pid: int, log: Path) -> None:
        self.base_url = base_url
        self.pid = pid
        self._log = log

    def client(self, token: str | None = None, **headers: str) -> httpx2.Client:
        """Return a client that sends this token, or none; to be closed by a `with`."""
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return httpx2.Client(base_url=self.base_url, headers=headers, timeout=40, trust_env=False)

    def log(self) -> str:
        """Return what it has logged so far."""
        return self._log.read_text()

    def settles(self, client: httpx2.Client, status: int, seconds: float = 5) -> bool:
        """Return whether `GET /me` comes to this status; a notification needs some milliseconds to another process."""
        deadline = time.monotonic() + seconds
        while client.get("/me").status_code != status:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        return True

    def is_ready(self) -> bool:
        try:
            return httpx2.get(f"{self.base_url}/readyz", timeout=5, trust_env=False).status_code == 200
        except httpx2.TransportError:
            return False


StartService = Callable[..., Service]


@dataclass(frozen=True)
class Operation:
    """One operation of the API, as its description has it."""

    name: str
    method: str
    path: str
    described: dict[str, Any]

    @property
    def scope(self) -> str | None:
        """The scope that it needs; None where any token will do, or none."""
        return next((scope for entry in self.described.get("security", ()) for scope in entry["token"]), None)

    @property
    def needs_token(self) -> bool:
        return "security" in self.described

    def documents(self, status: int, code: str) -> bool:
        """Tell whether this error is in the description."""
        content = self.described["responses"].get(str(status), {}).get("content", {})
        return code in content.get("application/problem+json", {}).get("examples", {})


@cache
def _described_application() -> Any:
    from api.app import create_app
    from api.settings import ApiSettings

    url = "postgresql+psycopg://trainyard:not-a-known-default@localhost/trainyard"
    return create_app(ApiSettings(database_url=url, redis_url="redis://localhost"))


@pytest.fixture(scope="session")
def application() -> Any:
    """The application, which is described and not started."""
    return _described_application()


@pytest.fixture(scope="session")
def require_conforms(application: Any) -> Callable[[Any, dict[str, Any]], None]:
    """How a value is held against a schema of the description."""
    components = application.openapi()["components"]

    def require(value: Any, schema: dict[str, Any]) -> None:
        whole = schema | {"components": components}
        Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(value)

    return require


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes an `operation` for each one there is."""
    if "operation" in metafunc.fixturenames:
        found = [
            Operation(described["operationId"], method.upper(), path, described)
            for path, item in _described_application().openapi()["paths"].items()
            for method, described in item.items()
        ]
        metafunc.parametrize("operation", found, ids=[operation.name for operation in found])


@pytest.fixture
def own_servers() -> None:
    """Database and broker are the stack's own, for tests that kill them."""
    external = External()
    if external.database_url is not None or external.redis_url is not None:
        pytest.skip("DATABASE_URL or REDIS_URL names a server that is not ours to kill")


@pytest.fixture(scope="session")
def digits_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset directory that the stacks of one test process share, so that digits are decoded once."""
    return tmp_path_factory.mktemp("datasets")


@pytest.fixture(scope="module")
def start_service(tmp_path_factory: pytest.TempPathFactory, digits_cache: Path) -> Iterator[StartService]:
    """Start stacks with settings of their own; all are stopped, and their external databases dropped, at the end."""
    services: list[Service] = []
    external = External()

    def start(slots: int = 1, workers: int = 1, **settings: object) -> Service:
        data_dir = tmp_path_factory.mktemp("stack")
        # Sixty readers in one test share a token: the limit has tests of its own.
        settings = {"datasets_dir": digits_cache, "rate_limit_burst": 100_000} | settings
        environment = {f"TRAINYARD_{name.upper()}": str(value) for name, value in settings.items()}
        environment |= _own_place(external)
        stack = Stack(data_dir, 0, slots=slots, workers=workers, environment=environment)
        stack.start()
        services.append(Service(stack, data_dir))
        return services[-1]

    yield start
    for service in services:
        service.close()
        service.stack.stop()
        if external.database_url is not None:
            _drop(external.database_url, str(make_url(service.stack.database_url).database))


@pytest.fixture(scope="module")
def service(start_service: StartService) -> Service:
    """One stack with two slots for the tests of a module that do no harm to it."""
    return start_service(slots=2)


def _own_place(external: External) -> dict[str, str]:
    place: dict[str, str] = {}
    if external.database_url is not None:
        name = f"trainyard_test_{uuid4().hex}"
        _execute(external.database_url, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        url = make_url(external.database_url).set(database=name)
        place["DATABASE_URL"] = url.render_as_string(hide_password=False)
    if external.redis_url is not None:
        place["REDIS_URL"] = external.redis_url
        place["TRAINYARD_REDIS_KEY_PREFIX"] = f"test:{uuid4().hex}:"
    return place


def _drop(url: str, name: str) -> None:
    _execute(url, sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _execute(url: str, statement: sql.Composed) -> None:
    libpq = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(libpq, autocommit=True) as connection:
        connection.execute(statement)
