"""The other ranks of a job that several GPUs train, as rank 0 has them: its own forks, which end with it and end it."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from typing import Any

from models.reasons import RUNNER_ERROR
from worker.messages import RANK_DIED, Failed, SavedCheckpoint
from worker.training.distributed import MeetingPlace, Together
from worker.training.ranks import Ranks

_CAUSE_SECONDS = 5.0  # in which another rank says what went wrong, where this one only saw a connection end
_EXIT_SECONDS = 1.0
_OVER = 0  # instead of an epoch


class Orders:
    """What rank 0 says to one of the others, whose process ends at once when that of rank 0 is gone."""

    def __init__(self, connection: Connection) -> None:
        """Listen to rank 0."""
        self._said: SimpleQueue[Any] = SimpleQueue()
        threading.Thread(target=self._listen, args=(connection,), name="orders", daemon=True).start()

    def beginning(self) -> SavedCheckpoint | None:
        """Wait until rank 0 has its data and its weights; return the checkpoint that it goes on from, if any."""
        checkpoint: SavedCheckpoint | None = self._said.get()
        return checkpoint

    def epochs(self) -> Iterator[int]:
        """Yield each epoch that rank 0 begins, until it says that there are no more."""
        return iter(self._said.get, _OVER)

    def _listen(self, connection: Connection) -> None:
        with suppress(EOFError, OSError):
            while True:
                self._said.put(connection.recv())
        os._exit(1)


Work = Callable[[Ranks, Orders], Failed | None]


class OtherRanks:
    """All ranks but this process, which is rank 0.

    One that dies ends this process and all the others at once, with the exit code RANK_DIED.
    """

    def __init__(self) -> None:
        """Be none: the job has one rank, and nothing here does anything."""
        self.ranks: Ranks = Ranks()
        self._connections: list[Connection] = []
        self._processes: list[BaseProcess] = []
        self._watch: threading.Thread | None = None
        self._over = False

    @classmethod
    def forked(cls, count: int, work: Work) -> "OtherRanks":
        """Fork a process for each of `count` ranks but this one, before this one has threads or has used CUDA.

        `work` is what they do, and returns why it failed.
        """
        others = cls()
        if count > 1:
            others._fork(count, work)
        return others

    def watch(self, tell: Callable[[Failed], None]) -> None:
        """From now on, notice a rank that dies; where one says why it fails, `tell` it, and end all."""
        if self._processes:
            self._watch = threading.Thread(target=self._watch_all, args=(tell,), name="other ranks", daemon=True)
            self._watch.start()

    def start(self, checkpoint: SavedCheckpoint | None) -> None:
        """Let the others prepare themselves to go on from this checkpoint, or from the start."""
        self._say(checkpoint)

    def dismiss(self) -> None:
        """Let the others end: there are no more epochs."""
        self._over = True
        self._say(_OVER)

    def end(self, failure: Failed) -> None:
        """Kill the others, for this rank has failed.

        What may only have been a connection that ended is not told before the rank whose end it was had its say.
        """
        if self._watch is not None and not self._over:
            if failure.reason == RUNNER_ERROR:
                self._watch.join(_CAUSE_SECONDS)
            self._kill()

    def _fork(self, count: int, work: Work) -> None:
        context = get_context("fork")
        place = MeetingPlace()
        for number in range(1, count):
            own, others = context.Pipe()
            self._connections.append(own)
            ranks = Together(number, count, place)
            arguments = (ranks, others, list(self._connections), work)
            process = context.Process(target=_serve, args=arguments, name=f"rank {number}", daemon=True)
            process.start()
            others.close()
            self._processes.append(process)
        self.ranks = Together(0, count, place, self._say)

    def _say(self, said: SavedCheckpoint | int | None) -> None:
        for connection in self._connections:
            with suppress(OSError):  # it is gone already, which the watch notices
                connection.send(said)

    def _watch_all(self, tell: Callable[[Failed], None]) -> None:
        while True:
            ready = wait(self._connections)
            for connection, process in zip(self._connections, self._processes, strict=True):
                if connection not in ready:
                    continue
                failure = _received(connection)
                if self._over:
                    return
                if failure is not None:
                    tell(failure)
                else:
                    process.join(_EXIT_SECONDS)
                    print(f"The process of {process.name} died with exit code {process.exitcode}.", flush=True)
                self._kill()
                os._exit(RANK_DIED if failure is None else 0)

    def _kill(self) -> None:
        self._over = True
        for process in self._processes:
            process.kill()


def _serve(ranks: Ranks, connection: Connection, connections_of_rank_0: list[Connection], work: Work) -> None:
    """Be another rank, from its fork to its end."""
    for inherited in connections_of_rank_0:
        inherited.close()  # or rank 0 would never seem gone
    failure = work(ranks, Orders(connection))
    if failure is not None:
        if failure.reason == RUNNER_ERROR:
            time.sleep(_CAUSE_SECONDS)
        connection.send(failure)
        threading.Event().wait()  # for rank 0 to end this process: to end by itself would look like dying


def _received(connection: Connection) -> Failed | None:
    """Return what a rank says of its failure; None where it is gone."""
    try:
        failure: Failed = connection.recv()
    except (EOFError, OSError):
        return None
    return failure
