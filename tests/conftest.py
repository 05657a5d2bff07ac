"""What tests share: the whole service as real processes, on a database and a broker of its own."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import hypothesis
import psycopg
import pytest
from jsonschema import Draft202012Validator
from psycopg import sql
from pydantic_settings import BaseSettings
from sqlalchemy.engine import make_url

from harness.faults import FaultPoints
from harness.odd_stack import OddStack
from harness.ports import free_port
from harness.service import Service
from local.stack import Stack

# A machine that is busy with other things is no failure of what is tested.
hypothesis.settings.register_profile(
    "trainyard", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("trainyard")


class External(BaseSettings):
    """Servers named in the environment; each test stack then gets a database and a key prefix of its own there."""

    database_url: str | None = None
    redis_url: str | None = None


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
    """Start stacks with settings of their own; all are stopped, and their external databases dropped, at the end.

    With `fault_points`, processes can be held at named moments; `worker_module` is run in place of the worker, and
    `overrides_of` is the environment of single children.
    """
    services: list[Service] = []
    external = External()

    def start(
        slots: int = 1,
        workers: int = 1,
        *,
        fault_points: bool = False,
        worker_module: str | None = None,
        overrides_of: Mapping[str, Mapping[str, str]] | None = None,
        **settings: object,
    ) -> Service:
        data_dir = tmp_path_factory.mktemp("stack")
        faults = None
        if fault_points:
            settings |= {"fault_points": data_dir / "faults"}
            (data_dir / "faults").mkdir()
            faults = FaultPoints(data_dir / "faults")
        # Sixty readers in one test share a token: the limit has tests of its own.
        settings = {"datasets_dir": digits_cache, "rate_limit_burst": 100_000} | settings
        environment = {f"TRAINYARD_{name.upper()}": str(value) for name, value in settings.items()}
        environment |= _own_place(external)
        described = Stack if worker_module is None else partial(OddStack, worker_module)
        stack = described(
            data_dir,
            port=free_port(),
            slots=slots,
            workers=workers,
            environment=environment,
            overrides_of=overrides_of,
        )
        stack.start()
        services.append(Service(stack, data_dir, faults))
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
