"""A running stack, as a user and as somebody who may look into its database sees it."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import httpx2
import psutil
import psycopg
from psycopg.rows import dict_row
from sqlalchemy.engine import make_url

from harness.faults import FaultPoints
from harness.ports import free_port
from local.children import Child, wait_until
from local.stack import Stack
from models.database import sync_engine, sync_sessions
from models.settings import Settings

FINAL = {"succeeded", "failed", "cancelled"}
SHARED_MEMORY = Path("/dev/shm")


class Service:
    """A running stack, as a user and as somebody who may look into its database sees it.

    `engine` and `sessions` are a worker's, for what a test does in a worker's or the scheduler's place.
    """

    def __init__(self, stack: Stack, data_dir: Path, faults: FaultPoints | None = None) -> None:
        self.stack = stack
        self.data_dir = data_dir
        self.shared_memory_before = set(SHARED_MEMORY.iterdir()) if SHARED_MEMORY.exists() else set()
        self.wrong_answers: list[str] = []  # of all clients: server errors that are no problem document
        self.engine = sync_engine(Settings(environment="development", database_url=stack.database_url), pool_size=10)
        self.sessions = sync_sessions(self.engine)
        self._faults = faults
        self._clients: list[httpx2.Client] = []
        self.http = self.client(stack.admin_token)

    @property
    def faults(self) -> FaultPoints:
        """The moments at which a process can be held, of a stack that was started with `fault_points`."""
        assert self._faults is not None, "start the service with fault_points=True"
        return self._faults

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
        port = free_port()
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

    def start_migrations(self) -> subprocess.Popen[str]:
        """Start the migrations of this code, as an upgrade does; what they say can be read."""
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "migrations"],
            env={"DATABASE_URL": self.stack.database_url, "TRAINYARD_ENVIRONMENT": "development"},
            cwd=self.data_dir,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self.engine.dispose()

    def _client(self, headers: dict[str, str]) -> httpx2.Client:
        hooks = {"response": [self._judge]}
        self._clients.append(
            httpx2.Client(base_url=self.stack.base_url, headers=headers, timeout=40, trust_env=False, event_hooks=hooks)
        )
        return self._clients[-1]

    def _judge(self, answer: httpx2.Response) -> None:
        """Note a server error other than 503 with a problem document, which is all that a fault may lead to."""
        if not answer.is_server_error:
            return
        answer.read()
        is_problem = answer.headers.get("content-type", "").startswith("application/problem+json")
        if answer.status_code != httpx2.codes.SERVICE_UNAVAILABLE or not is_problem:
            asked = f"{answer.request.method} {answer.request.url.path}"
            self.wrong_answers.append(f"{asked}: {answer.status_code} {answer.text[:200]}")

    def submit(self, spec: dict[str, Any]) -> str:
        answer = self.http.post("/jobs", json=spec)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        view: dict[str, Any] = self.http.get(f"/jobs/{job_id}").json()
        return view

    def wait_for(self, job_id: str, reached: Callable[[dict[str, Any]], bool], seconds: float = 120) -> dict[str, Any]:
        """Poll the job until `reached`, for at most `seconds`; the API may be away meanwhile."""
        deadline = time.monotonic() + seconds
        view: dict[str, Any] = {}
        while time.monotonic() < deadline:
            try:
                answer = self.http.get(f"/jobs/{job_id}")
                view = answer.json()
                if answer.is_success and reached(view):
                    return view
            except httpx2.TransportError as error:
                view = {"unreachable": str(error)}
            time.sleep(0.02)
        raise AssertionError(f"not reached within {seconds} s: {view}")

    def wait_for_end(self, job_id: str, seconds: float = 240) -> dict[str, Any]:
        return self.wait_for(job_id, lambda view: view["status"] in FINAL, seconds)

    def wait_for_epoch(self, job_id: str, epoch: int) -> dict[str, Any]:
        return self.wait_for(job_id, lambda view: view["progress"]["epoch"] >= epoch)

    def epochs(self, job_id: str) -> list[dict[str, Any]]:
        epochs: list[dict[str, Any]] = self.http.get(f"/jobs/{job_id}/metrics").json()["epochs"]
        return epochs

    def rows(self, query: str, *parameters: object, lock_timeout: str = "2min") -> list[dict[str, Any]]:
        """Ask the database itself; raise psycopg.Error, also where a lock is held for longer."""
        with self.connect(lock_timeout) as connection:
            connection.autocommit = True
            cursor = connection.execute(query.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def connect(self, lock_timeout: str) -> psycopg.Connection[dict[str, Any]]:
        """Connect to the database as nobody of the stack does."""
        url = make_url(self.stack.database_url).set(drivername="postgresql").render_as_string(hide_password=False)
        return psycopg.connect(url, row_factory=dict_row, options=f"-c lock_timeout={lock_timeout}")

    def now(self) -> datetime:
        """Return the database's time."""
        (row,) = self.rows("SELECT clock_timestamp() AS now")
        return cast(datetime, row["now"])

    def job_row(self, job_id: str) -> dict[str, Any]:
        """Return a job as the database has it, whether or not the API is there."""
        (row,) = self.rows("SELECT * FROM jobs WHERE id = %s", job_id)
        return row

    def runner_pid(self, worker: str = "worker-1", seconds: float = 30) -> int:
        """Return the process id of the one runner of a worker: a child of its forkserver."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for runner in self.runners(worker):
                return int(runner.pid)
            time.sleep(0.02)
        raise AssertionError("no runner was started")

    def runners(self, worker: str = "worker-1") -> list[psutil.Process]:
        """Return the runners of a worker that live: the children of its forkserver."""
        try:
            servers = psutil.Process(self.stack.pid(worker)).children()
            return [runner for server in servers for runner in server.children()]
        except psutil.NoSuchProcess:
            return []

    def ranks(self, worker: str) -> list[psutil.Process]:
        """Return the runners of a worker that live, each followed by the ranks beside it."""
        everybody: list[psutil.Process] = []
        for runner in self.runners(worker):
            with suppress(psutil.NoSuchProcess):
                everybody += [runner, *runner.children(recursive=True)]
        return everybody

    @contextmanager
    def suspended(self, name: str) -> Iterator[None]:
        """Let a child and all below it stand still during the body."""
        child = psutil.Process(self.stack.pid(name))
        family = [child, *child.children(recursive=True)]
        try:
            for process in family:
                with suppress(psutil.NoSuchProcess):  # some come and go
                    process.suspend()
            yield
        finally:
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    def wait_until_gone(self, name: str, seconds: float) -> None:
        """Wait until a child that was told to stop has ended."""
        wait_until(lambda: not self.stack.is_running(name), watch=lambda: None, what=f"end of {name}", seconds=seconds)

    def worker_with(self, pid: int) -> str:
        """Return the worker that is this process, or whose runner or other rank it is."""
        for name in self.stack.children:
            if name.startswith("worker") and pid in {self.stack.pid(name), *(one.pid for one in self.ranks(name))}:
                return name
        raise AssertionError(f"process {pid} is no worker's")


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


def wait_until_dead(process: psutil.Process, seconds: float) -> None:
    """Wait until the process has ended; a zombie has, whether or not somebody has taken note of it yet."""
    deadline = time.monotonic() + seconds
    with suppress(psutil.NoSuchProcess):  # gone between the two questions
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, f"{process} still runs"
            time.sleep(0.02)
