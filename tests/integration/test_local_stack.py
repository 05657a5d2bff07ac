"""The local stack as its user meets it: started, stopped, killed, started again, told what is in its way."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import httpx2
import psutil
import psycopg
import pytest

from harness.ports import free_port
from local.children import StackError
from local.stack import Stack

REPOSITORY = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "local"]
END_SECONDS = 90
T = TypeVar("T")


@pytest.fixture(autouse=True)
def _servers_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are about the servers that the stack starts itself."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.delenv("REDIS_URL", raising=False)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data of a lab"


def test_a_port_in_use_is_said_in_one_line_before_anything_is_started(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = _run("up", "--port", str(port), "--data-dir", str(data_dir))
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr == f"trainyard: port {port} is in use: choose another one\n"
    assert not data_dir.exists()


def test_a_data_directory_in_use_is_said_in_one_line_and_its_user_goes_on(data_dir: Path) -> None:
    with _servers(data_dir) as first:
        ended = _run("up", "--port", str(free_port()), "--data-dir", str(data_dir))
        assert ended.returncode == 1
        assert ended.stderr == f"trainyard: the data directory {data_dir} is in use by another instance\n"
        first.check()
        assert _query(first, "SELECT 1") == 1


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT] * 4], ids=["SIGTERM", "impatient Ctrl-C"])
def test_a_signal_stops_everything_in_order_and_leaves_nothing(data_dir: Path, signals: list[signal.Signals]) -> None:
    port = free_port()
    with _up(data_dir, port) as up:
        assert httpx2.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200
        everything = _family(up)
        names = set(_told(psutil.Process.name, everything))
        shared = _shared_files(everything)
        for number in signals:
            up.send_signal(number)
            time.sleep(0.05)
        output, errors = up.communicate(timeout=END_SECONDS)
    assert {"postgres", "valkey-server"} <= names
    assert (up.returncode, output, errors) == (0, "", "")  # the one line, that it is ready, has been read
    assert _alive(everything) == []
    assert [path for path in shared if path.exists()] == []
    assert not _has_segment(data_dir)
    log = (data_dir / "logs" / "postgres.log").read_text()
    assert "database system is shut down" in log
    assert "terminating connection" not in log, "a client was still there when Postgres was stopped"


def test_a_signal_during_the_start_leaves_nothing(data_dir: Path) -> None:
    with _start(data_dir, free_port()) as up:
        _wait_until(lambda: (data_dir / "postgres" / "postmaster.pid").exists())
        everything = _family(up)
        up.send_signal(signal.SIGTERM)
        output, errors = up.communicate(timeout=END_SECONDS)
    assert (up.returncode, output, errors) == (0, "", "")
    assert _alive(everything) == []


@pytest.mark.parametrize("module", ["api", "worker"])
def test_a_child_that_dies_ends_the_stack_with_one_line(data_dir: Path, module: str) -> None:
    with _up(data_dir, free_port()) as up:
        everything = _family(up)
        commands = _told(lambda process: (process, process.cmdline()), everything)
        (victim,) = (process for process, command in commands if command[-2:] == ["-m", module])
        victim.kill()
        _, errors = up.communicate(timeout=END_SECONDS)
    assert up.returncode == 1
    (line,) = errors.splitlines()
    assert line.startswith(f"trainyard: {module}")
    assert "was killed by SIGKILL" in line
    assert _alive(everything) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a child when its parent is gone")
def test_kill_9_leaves_no_child_and_the_next_start_finds_the_data(data_dir: Path) -> None:
    with _up(data_dir, free_port()) as up:
        everything = _family(up)
        sockets = Path((data_dir / "lock").read_text())
        up.kill()
        up.wait()
    with _servers(data_dir) as stack:
        assert not sockets.exists()
        assert _query(stack, "SELECT count(*) FROM jobs") == 0
    _wait_until(lambda: not _alive(everything))  # a process that is importing torch hears of it afterwards
    assert not _has_segment(data_dir)


def test_data_are_kept_between_starts_also_after_a_postgres_that_was_killed(data_dir: Path) -> None:
    stack = Stack(data_dir)
    with _servers(data_dir, stack):
        _execute(stack, "CREATE TABLE kept (answer int)", "INSERT INTO kept VALUES (42)")
    with _servers(data_dir, stack):
        assert _query(stack, "SELECT answer FROM kept") == 42
        stack.kill_child("postgres")
        stack.start_child("postgres")
        assert _query(stack, "SELECT answer FROM kept") == 42
        stack.kill_child("postgres")
    assert not _has_segment(data_dir)
    with _servers(data_dir, stack):
        assert _query(stack, "SELECT answer FROM kept") == 42


def test_the_admins_token_is_its_owners_alone_and_is_kept_between_starts(data_dir: Path) -> None:
    tokens = []
    for _ in range(2):
        with Stack(data_dir, workers=0) as stack, stack.client(timeout=10) as client:
            assert client.get("/me").json()["role"] == "admin"
            tokens.append(stack.admin_token)
    assert tokens[0] == tokens[1]
    assert stat.S_IMODE((data_dir / "admin-token").stat().st_mode) == 0o600
    assert not [log for log in (data_dir / "logs").iterdir() if tokens[0] in log.read_text()]


def test_a_pid_file_whose_number_is_somebody_elses_by_now_is_no_obstacle(data_dir: Path) -> None:
    with _servers(data_dir):
        owner = (data_dir / "postgres").stat().st_uid
    with subprocess.Popen(["sleep", "600"], user=owner if os.geteuid() == 0 else None) as stranger:
        (data_dir / "postgres" / "postmaster.pid").write_text(f"{stranger.pid}\n{data_dir / 'postgres'}\n")
        with _servers(data_dir) as stack:
            assert _query(stack, "SELECT 1") == 1
        assert stranger.poll() is None
        stranger.kill()


def test_an_initdb_that_was_interrupted_is_made_anew(data_dir: Path) -> None:
    half = data_dir / "postgres.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    with _servers(data_dir) as stack:
        assert _query(stack, "SELECT 1") == 1
    assert not half.exists()


def test_a_students_models_py_in_the_working_directory_is_not_taken_for_ours(data_dir: Path) -> None:
    data_dir.mkdir()
    for name in ("models", "worker", "api", "migrations"):
        (data_dir / f"{name}.py").write_text("raise SystemExit('this is not the one')\n")
    with _servers(data_dir) as stack:
        assert _query(stack, "SELECT count(*) FROM jobs") == 0


def test_libpq_settings_of_the_user_lead_nobody_astray(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGDATABASE", "another")
    with _servers(data_dir) as stack:
        monkeypatch.undo()
        assert _query(stack, "SELECT current_database()") == "trainyard"


def test_a_module_that_fails_is_told_with_its_last_words(data_dir: Path) -> None:
    with _servers(data_dir) as stack, pytest.raises(StackError, match="alembic ended with status 255, saying") as error:
        stack.run_module("alembic", "-c", str(data_dir / "missing.ini"), "check")
    assert "\n" not in str(error.value)


def test_the_version_before_starts_on_a_schema_of_a_later_one(data_dir: Path) -> None:
    with _servers(data_dir) as stack:
        _execute(stack, "UPDATE alembic_version SET version_num = 'later'")
    with _up(data_dir, port := free_port()), httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as api:
        assert api.get("/readyz").json()["code"] == "not_migrated"
        token = (data_dir / "admin-token").read_text().strip()
        assert api.get("/jobs", headers={"Authorization": f"Bearer {token}"}).json()["items"] == []


def test_an_external_server_is_used_and_not_started(data_dir: Path, tmp_path: Path) -> None:
    others = psutil.Process().children()  # as the forkserver of an earlier test
    with _servers(data_dir) as first:
        addresses = {"DATABASE_URL": first.database_url, "REDIS_URL": first.redis_url}
        second = Stack(tmp_path / "second", environment=addresses)
        with _servers(tmp_path / "second", second):
            assert _query(second, "SELECT count(*) FROM jobs") == 0
            started = [child for child in psutil.Process().children() if child not in others]
            assert set(started) == {psutil.Process(first.pid(name)) for name in ("postgres", "valkey")}
        assert not (tmp_path / "second" / "postgres").exists()


def test_the_servers_run_alone_and_say_where_the_database_is(data_dir: Path) -> None:
    command = [*COMMAND, "servers", "--data-dir", str(data_dir)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().removeprefix("Postgres is ready at ").strip()
            with psycopg.connect(url) as connection:
                assert connection.execute("SELECT count(*) FROM jobs").fetchone() == (0,), "migrated"
            names = set(_told(psutil.Process.name, _family(process)))
            assert {"postgres", "valkey-server"} <= names
            assert not (data_dir / "logs" / "api.log").exists()
            everything = _family(process)
        finally:
            process.terminate()
    assert process.returncode == 0
    assert _alive(everything) == []


def test_two_workers_run_and_children_can_be_killed_and_started_again(data_dir: Path) -> None:
    with Stack(data_dir, workers=2) as stack:
        assert stack.pid("worker-1") != stack.pid("worker-2")
        for name in ("api", "worker-2", "valkey", "postgres"):
            before = stack.pid(name)
            stack.kill_child(name)
            stack.start_child(name)
            assert stack.pid(name) != before
        stack.wait_until_ready()
        stack.check()


def test_the_demo_trains_and_prints_its_result() -> None:
    ended = _run("demo")
    assert ended.returncode == 0, ended.stderr
    for expected in ("epoch 12/12", "Loss and accuracy", "latency per sample", "Parameters and MACs", "macro average"):
        assert expected in ended.stdout


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=2 * END_SECONDS, check=False
    )


@contextmanager
def _servers(data_dir: Path, stack: Stack | None = None) -> Iterator[Stack]:
    """Run Postgres and Valkey, migrated, without the rest."""
    stack = stack or Stack(data_dir)
    stack.start(services=False)
    try:
        yield stack
    finally:
        stack.stop()


@contextmanager
def _start(data_dir: Path, port: int) -> Iterator["subprocess.Popen[str]"]:
    """Run `local up` as a process of its own."""
    command = [*COMMAND, "up", "--port", str(port), "--data-dir", str(data_dir)]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.communicate(timeout=END_SECONDS)


@contextmanager
def _up(data_dir: Path, port: int) -> Iterator["subprocess.Popen[str]"]:
    """Run `local up` as a process of its own that has said that it is ready."""
    with _start(data_dir, port) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"Trainyard is ready at http://127.0.0.1:{port}\n"
        yield process


def _execute(stack: Stack, *statements: str) -> None:
    with psycopg.connect(stack.database_url.replace("+psycopg", "")) as connection:
        for statement in statements:
            connection.execute(statement)


def _query(stack: Stack, query: str) -> object:
    with psycopg.connect(stack.database_url.replace("+psycopg", "")) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


def _family(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def _told(ask: Callable[[psutil.Process], T], processes: list[psutil.Process]) -> Iterator[T]:
    """Yield what those say that have not ended meanwhile."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            yield ask(process)


def _alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return who is left of these; a zombie has ended, whoever is slow to take note of it."""
    told = _told(lambda process: (process, process.status()), processes)
    return [process for process, status in told if process.is_running() and status != psutil.STATUS_ZOMBIE]


def _shared_files(processes: list[psutil.Process]) -> list[Path]:
    """Return the files in shared memory that these processes map."""
    if sys.platform != "linux":
        return []
    maps = (mapping.path for mapped in _told(psutil.Process.memory_maps, processes) for mapping in mapped)
    return [Path(path) for path in maps if path.startswith("/dev/shm/") and not path.endswith("(deleted)")]


def _has_segment(data_dir: Path) -> bool:
    """Return whether Postgres's System V segment, whose key is the inode of its directory, still exists."""
    table = Path("/proc/sysvipc/shm")
    inode = (data_dir / "postgres").stat().st_ino
    return table.exists() and str(inode) in [line.split()[0] for line in table.read_text().splitlines()]


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + END_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
