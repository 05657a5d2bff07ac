"""Child processes that never outlive us, each in its own session, with a log and a graceful end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from local import launch

_POLL_SECONDS = 0.02


class StackError(RuntimeError):
    """Why the local stack cannot start or go on: one sentence for the person at the terminal."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """What to run, its first argument an absolute path, and how it is stopped.

    `owner`, if any, is the uid and gid to run as. `orphan_signal` is what the kernel sends it when we are gone.
    """

    name: str
    arguments: list[str]
    environment: dict[str, str]
    directory: Path
    owner: tuple[int, int] | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    orphan_signal: signal.Signals = signal.SIGKILL
    grace_seconds: float = 10.0


class Child:
    """One running process, its output appended to a log.

    On Linux it is signalled when the *thread* that started it ends: start children from a thread that lasts.
    """

    def __init__(self, command: Command, log: Path) -> None:
        self._command = command
        self._log = log
        self._asked_to_stop = False
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                _launch(command),
                cwd=command.directory,
                env=command.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process has not ended yet."""
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process alone; nothing happens if it has ended."""
        self._process.send_signal(number)

    def ask_to_stop(self) -> None:
        """Send the stop signal and return at once, so that several children can end side by side."""
        if not self._asked_to_stop:
            self._asked_to_stop = True
            self.send(self._command.stop_signal)
            self.send(signal.SIGCONT)  # a suspended process would not hear it

    def stop(self) -> None:
        """Wait for the end for as long as the grace lasts, then kill what is left of the process and its group."""
        self.ask_to_stop()
        if self._process.returncode is None:  # else its id may be somebody else's by now
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(self._command.grace_seconds)
            self._sweep()

    def wait(self) -> None:
        """Wait until the process has ended."""
        self._process.wait()

    def finish(self) -> None:
        """Wait until the process has ended; raise StackError unless it succeeded. An interrupted wait stops it."""
        try:
            self.wait()
        finally:
            self.stop()
        if self._process.returncode != 0:
            raise StackError(self._epitaph())

    def check(self) -> None:
        """Raise StackError, which tells how, if the process has ended."""
        if not self.running:
            self._sweep()
            raise StackError(self._epitaph())

    def _sweep(self) -> None:
        """Kill what is left of the process group, just after its leader's end."""
        with suppress(ProcessLookupError, PermissionError):  # nobody is left; of a zombie, macOS says EPERM
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    def _epitaph(self) -> str:
        """Return one line on how the process ended: its status, the last line that it logged, and where its log is."""
        code = self._process.returncode
        ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        with self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - 2_000))
            lines = log.read().decode(errors="replace").strip().splitlines()
        said = f', saying "{lines[-1].strip()}"' if lines else ""
        return f"{self._command.name} {ended}{said} (log: {self._log})"


def wait_until(ready: Callable[[], bool], *, watch: Callable[[], None], what: str, seconds: float) -> None:
    """Return when `ready()` is true; raise StackError after `seconds`, or whatever `watch()` raises in the meantime."""
    deadline = time.monotonic() + seconds
    while not ready():
        watch()
        if time.monotonic() > deadline:
            raise StackError(f"{what} did not answer within {seconds:.0f} s")
        time.sleep(_POLL_SECONDS)


def _launch(command: Command) -> list[str]:
    """Return the arguments that lead, through `launch.py`, to the command."""
    owner = ":".join(map(str, command.owner or ()))
    options = [str(os.getpid()), str(int(command.orphan_signal)), owner]
    return [sys.executable, "-I", "-S", launch.__file__, *options, *command.arguments]
