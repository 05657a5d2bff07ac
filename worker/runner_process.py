"""A runner as its supervisor sees it: what it said, what it printed, whether it lives, and until when it may."""

import codecs
import os
import signal
import threading
import time
from collections import deque
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext

import structlog

from worker.memory_limit import MemoryLimit
from worker.messages import EVENT, GO_ON, STOP, Assignment, Event
from worker.stopwatch import Stopwatch

log = structlog.get_logger(__name__)

OUTPUT_LIMIT = 262_144  # bytes of output kept between two visits of the supervisor, the newest
_READ = 65_536
_LOOK_SECONDS = 0.25  # between two looks at deadlines and memory
_NEAR = 0.4  # a lease that has this part of its length left is about to end; it is renewed long before
START, START_SECONDS = "start", 180.0  # a forkserver that has to be started again may import torch over a network
_END_SECONDS = 10  # a process that the kernel holds may not go, and its supervisor must


def _run_in_child(
    stopwatch: Stopwatch, assignment: str, commands: Connection, events: Connection, output: Connection
) -> None:
    stopwatch.end("process")
    # Imported here because this module is also the Celery process's, which stays without torch.
    from worker.runner import run

    stopwatch.end("import")
    run(stopwatch, assignment, commands, events, output)


class RunnerProcess:
    """A runner; a thread of its own starts it and empties its pipes.

    So a slow database never holds up the training, and a forkserver that has to import torch first no supervisor.
    """

    def __init__(
        self, context: ForkServerContext, assignment: Assignment, memory_limit: MemoryLimit | None = None
    ) -> None:
        """Let a runner start on the assignment, which is killed where its processes have more memory than the limit."""
        commands, self._commands = context.Pipe(duplex=False)
        self._events, events = context.Pipe(duplex=False)
        self._output, output = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_run_in_child,
            args=(Stopwatch(time.monotonic()), assignment.model_dump_json(), commands, events, output),
            name=f"job {assignment.job_id}",
        )
        self._childs_ends = (commands, events, output)
        self._news = threading.Condition()
        self._said: deque[Event] = deque()
        self._printed = bytearray()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a character may come in two pieces
        self._dropped = 0
        self._started = self._unwanted = self._ended = False
        self._deadlines = {START: time.monotonic() + START_SECONDS}
        self._commanding = threading.Lock()
        self._lease_end = self._lease_seconds = 0.0
        self._memory_limit = memory_limit
        self._next_measure = 0.0
        self.killed_for: str | None = None
        self.overrun: str | None = None  # the sentence that says how far one killed for its memory was beyond the limit
        threading.Thread(target=self._read, name="runner pipes", daemon=True).start()

    @property
    def pid(self) -> int | None:
        """The runner's process id; None until it is started."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code, or minus the signal that ended it; None while it lives, and where it could not be started."""
        return self._process.exitcode

    def set_deadline(self, purpose: str, moment: float) -> None:
        """Kill the runner at `moment` (time.monotonic()) unless the same purpose is given a later one before."""
        with self._news:
            self._deadlines[purpose] = moment

    def set_lease_end(self, moment: float, seconds: float) -> None:
        """Let the runner end itself at `moment`, unless it is given `seconds` more when that is near.

        That is done here as long as this process runs, and wherever its supervisor waits: only a runner whose worker is
        suspended, and can neither kill nor record, ends by this.
        """
        with self._news:  # the answer to a renewal may have come so late that the runner was given more meanwhile
            end = self._lease_end = max(moment, self._lease_end)
            self._lease_seconds = seconds
            started = self._started  # or it would be told of one that has run out by then, and end itself
        if started:
            self._command(repr(end).encode())

    def ask_to_stop(self, purpose: str, *, grace_seconds: float | None) -> None:
        """Let the runner leave after this epoch, and kill it where that takes longer than the grace, if any."""
        self._command(STOP)
        if grace_seconds is not None:
            self.set_deadline(purpose, time.monotonic() + grace_seconds)

    def go_on(self) -> None:
        """Let the runner stay after all, if it has not left yet."""
        self._command(GO_ON)

    def wait(self, seconds: float) -> bool:
        """Wait for an event at most this long; return whether the runner has ended, or never came to start in time.

        Output is nothing to hurry for.
        """
        with self._news:
            self._news.wait_for(lambda: self._said or self._ended, seconds)
            starts = not (self._started or self._ended)
        if starts:  # and the thread that else looks at deadlines waits for the forkserver
            self._enforce_deadlines()
        return self._ended or (starts and self._unwanted)

    def take_events(self) -> list[Event]:
        """Return what the runner said since the last call, in order."""
        with self._news:
            events = list(self._said)
            self._said.clear()
            return events

    def take_output(self) -> str:
        """Return what the runner printed since the last call, the oldest part dropped beyond OUTPUT_LIMIT."""
        with self._news:
            text = self._decoder.decode(bytes(self._printed)).replace("\0", "�")
            if self._dropped:
                text = f"[{self._dropped} bytes of output dropped]\n{text}"
            self._printed.clear()
            self._dropped = 0
            return text

    def kill(self) -> None:
        """End the runner and everything it started, now or once it is started."""
        with self._news:
            self._unwanted = True
            lives = self._started and not self._ended  # once it has ended, its id may be somebody else's
        if lives:
            self._process.kill()
            self._kill_group()

    def end(self) -> None:
        """Kill it and return when it is gone: its cores and its memory are free for another job then."""
        self.kill()
        with self._news:
            self._news.wait_for(lambda: self._ended, _END_SECONDS)

    def _command(self, command: bytes) -> None:
        with suppress(OSError), self._commanding:  # it is gone already, which the reading thread notices
            self._commands.send_bytes(command)

    def _read(self) -> None:
        try:
            if self._start():
                self._read_until_end()
        finally:  # whatever happened, the supervisor must not wait for ever
            self.kill()
            with self._news:
                self._ended = True
                self._news.notify_all()

    def _start(self) -> bool:
        """Start the process, which takes seconds where its forkserver was killed before, and fails where it is now."""
        try:
            self._process.start()
        except (OSError, EOFError):
            log.exception("runner_not_started", process=self._process.name)
            return False
        finally:
            for childs_end in self._childs_ends:
                childs_end.close()
        with self._news:
            self._started = True
            del self._deadlines[START]
            unwanted, seconds = self._unwanted, self._lease_seconds
        if unwanted:
            self.kill()
        elif seconds:
            self.set_lease_end(time.monotonic() + seconds, seconds)
        return True

    def _read_until_end(self) -> None:
        sources = [self._events, self._output]
        ended = False
        while not ended:
            ready = connection.wait([*sources, self._process.sentinel], timeout=self._until_deadline())
            self._enforce_deadlines()
            self._enforce_memory_limit()
            self._prolong_lease()
            ended = self._process.sentinel in ready
            for source in [source for source in sources if source in ready]:
                if not self._read_one(source):
                    sources.remove(source)
        self._process.join()
        for source in sources:
            while source.poll(0) and self._read_one(source):
                continue

    def _read_one(self, source: Connection) -> bool:
        """Take one message or piece of output; return False at the end of the pipe."""
        try:
            if source is self._events:
                event = EVENT.validate_json(source.recv_bytes())
                with self._news:
                    self._said.append(event)
                    self._news.notify_all()
                return True
            piece = os.read(source.fileno(), _READ)
        except (EOFError, OSError):
            return False
        with self._news:
            self._printed += piece
            surplus = len(self._printed) - OUTPUT_LIMIT
            if surplus > 0:
                del self._printed[:surplus]
                self._dropped += surplus
            self._news.notify_all()
        return bool(piece)

    def _until_deadline(self) -> float:
        with self._news:
            nearest = min(self._deadlines.values(), default=float("inf"))
        return max(0.0, min(nearest - time.monotonic(), _LOOK_SECONDS))

    def _enforce_deadlines(self) -> None:
        with self._news:
            passed = [purpose for purpose, moment in self._deadlines.items() if moment <= time.monotonic()]
        if passed and self.killed_for is None:
            self.killed_for = passed[0]
            self.kill()

    def _enforce_memory_limit(self) -> None:
        if self._memory_limit is None or self.pid is None or time.monotonic() < self._next_measure:
            return
        self._next_measure = time.monotonic() + _LOOK_SECONDS
        overrun = self._memory_limit.overrun(self.pid)
        if overrun is not None and self.killed_for is None:
            self.killed_for, self.overrun = "memory", overrun
            self.kill()

    def _prolong_lease(self) -> None:
        with self._news:
            end, seconds = self._lease_end, self._lease_seconds
        now = time.monotonic()
        if seconds and now >= end - seconds * _NEAR:
            self.set_lease_end(now + seconds, seconds)

    def _kill_group(self) -> None:
        if self.pid is not None:
            with suppress(ProcessLookupError, PermissionError):  # nothing is left of it
                os.killpg(self.pid, signal.SIGKILL)
