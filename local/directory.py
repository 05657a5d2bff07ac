"""The data directory: its layout, the lock that makes it ours, and the runtime directory that goes with it."""

import fcntl
import os
import pwd
import shutil
import tempfile
from pathlib import Path

from local.children import StackError

_LONGEST_TEMPORARY = 48  # bytes; the whole path of a socket must stay under 107 (macOS: 104)
_RUNTIME_PREFIX = "trainyard-"
_TEMPORARY = "/tmp"  # noqa: S108 - only mkdtemp writes there


class DataDirectory:
    """Everything that is kept between starts; open in at most one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().resolve()
        self.postgres = self.path / "postgres"
        self.artifacts = self.path / "artifacts"
        self.datasets = self.path / "datasets"
        self.logs = self.path / "logs"
        self.admin_token = self.path / "admin-token"
        self._lock: int | None = None
        self._runtime: Path | None = None

    @property
    def runtime(self) -> Path:
        """Where sockets and temporary files are, a path short enough for sockets; it lasts from `open` to `close`."""
        assert self._runtime is not None, "the data directory is not open"
        return self._runtime

    def open(self) -> None:
        """Make the folders and take the lock; raise StackError if another instance has it."""
        for folder in (self.artifacts, self.datasets, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise StackError(f"the data directory {self.path} is in use by another instance") from None
        self._lock = lock
        self._runtime = self._new_runtime(lock)

    def close(self) -> None:
        """Remove the runtime directory and give the lock back; nothing happens if it is not open."""
        if self._runtime is not None:
            shutil.rmtree(self._runtime, ignore_errors=True)
            self._runtime = None
        if self._lock is not None:
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None

    def log(self, name: str) -> Path:
        """Return the log file of the child with this name."""
        return self.logs / f"{name}.log"

    def owner(self) -> tuple[int, int] | None:
        """Return the uid and gid that Postgres runs as, or None for our own.

        It refuses to run as root; then it is whoever owns its data, on the first start nobody.
        """
        if os.geteuid() != 0:
            return None
        if self.postgres.exists() and (status := self.postgres.stat()).st_uid != 0:
            return status.st_uid, status.st_gid
        nobody = pwd.getpwnam("nobody")
        return nobody.pw_uid, nobody.pw_gid

    def _new_runtime(self, lock: int) -> Path:
        """Make the runtime directory; the lock file names it, so that after a crash the next start removes it."""
        left_over = Path(os.read(lock, 4096).decode())
        if left_over.name.startswith(_RUNTIME_PREFIX):
            shutil.rmtree(left_over, ignore_errors=True)
        owner = self.owner()
        runtime = Path(tempfile.mkdtemp(prefix=_RUNTIME_PREFIX, dir=_temporary(owner)))
        os.ftruncate(lock, 0)
        os.pwrite(lock, os.fsencode(runtime), 0)
        if owner is not None:
            os.chown(runtime, *owner)
        return runtime


def is_reachable(path: Path, uid: int, gid: int) -> bool:
    """Return whether another user may walk to `path` and enter or execute it."""
    return all(_may_pass(place.stat(), uid, gid) for place in (path, *path.parents))


def _may_pass(status: os.stat_result, uid: int, gid: int) -> bool:
    bit = 0o100 if status.st_uid == uid else 0o010 if status.st_gid == gid else 0o001
    return bool(status.st_mode & bit)


def _temporary(owner: tuple[int, int] | None) -> str:
    """Return the usual folder for temporary files, unless it is too long for a socket or closed to Postgres."""
    usual = Path(tempfile.gettempdir())
    short = len(os.fsencode(usual)) <= _LONGEST_TEMPORARY
    return str(usual) if short and (owner is None or is_reachable(usual, *owner)) else _TEMPORARY
