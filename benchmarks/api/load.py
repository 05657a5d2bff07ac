"""Clients that ask one after the other without a pause: answers per second, and how long each took."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice

from benchmarks.api.client import Asker, Connection, connected, run, until
from benchmarks.processes import MeasurementFailed

_WARM_UP_SECONDS = 0.2
_LONGEST_SECONDS = 60.0  # for all clients' first answers, and then for enough of them
_ANSWERS_PER_CLIENT = 2  # at least, so that a slow server is not judged by its first ones


@dataclass(frozen=True)
class Load:
    """What is asked of the server on a port, in turn, and the status that every answer must have.

    Where a server may fail, other answers are counted apart; elsewhere one of them is the end of the measurement.
    """

    port: int
    requests: Sequence[bytes] = field(repr=False)
    status: int = 200
    may_fail: bool = False


@dataclass(frozen=True)
class Answers:
    """Answers per second, the seconds that each took, how many failed, and CPU seconds of the clients per second."""

    rate: float
    latencies: list[float]
    failed: int
    client_cores: float


@dataclass
class _Window:
    """The time in which answers count: open between the warm-up and the end."""

    is_open: bool = False
    latencies: list[float] = field(default_factory=list)
    failed: int = 0


def under_load(load: Load, clients: int, seconds: float) -> Answers:
    """Ask with so many connections for so long, or until each has had an answer or two."""
    return run(_under_load(load, clients, seconds))


def one_by_one(load: Load) -> float:
    """Ask each request once on one connection; return the seconds of all together."""
    return run(_one_by_one(load))


class _Client(Connection):
    """Asks again with each answer."""

    def __init__(self, load: Load, first: int, window: _Window) -> None:
        super().__init__()
        self._load, self._window = load, window
        self._requests = islice(cycle(load.requests), first, None)  # clients do not all begin with the same
        self.answers = 0

    def start(self) -> None:
        """Ask."""
        self._asked = time.perf_counter()
        self.transport.write(next(self._requests))

    def on_message_complete(self) -> None:
        """Count the answer and ask again."""
        status = self.parser.get_status_code()
        self.answers += 1
        if self._window.is_open and status == self._load.status:
            self._window.latencies.append(time.perf_counter() - self._asked)
        elif status != self._load.status:
            self._window.failed += 1
            if not self._load.may_fail:
                self.fail(f"{self._load.status} was expected, not {status}")
        if not self.ended.done():
            self.start()


async def _under_load(load: Load, clients: int, seconds: float) -> Answers:
    window = _Window()
    makers = [partial(_Client, load, number, window) for number in range(clients)]
    async with connected(load.port, makers) as askers:
        for asker in askers:
            asker.start()
        await asyncio.sleep(_WARM_UP_SECONDS)
        await _enough(lambda: all(asker.answers for asker in askers), askers)
        used, started = time.process_time(), time.perf_counter()
        window.is_open = True
        await asyncio.sleep(seconds)
        await _enough(lambda: len(window.latencies) >= _ANSWERS_PER_CLIENT * clients, askers)
        window.is_open = False
        lasted, used = time.perf_counter() - started, time.process_time() - used
    return Answers(len(window.latencies) / lasted, window.latencies, window.failed, used / lasted)


async def _enough(reached: Callable[[], bool], askers: Sequence[Connection]) -> None:
    if not await until(reached, askers, _LONGEST_SECONDS):
        raise MeasurementFailed(f"the clients had too few answers after {_LONGEST_SECONDS:.0f} s")


async def _one_by_one(load: Load) -> float:
    async with connected(load.port, [Asker]) as (asker,):
        started = time.perf_counter()
        for request in load.requests:
            (await asker.ask(request)).read(load.status)
        return time.perf_counter() - started
