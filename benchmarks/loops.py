"""The loops that are compared, and their measurement: one after the other, repeat by repeat, each in a new process."""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.processes import Forker, MeasurementFailed
from benchmarks.setting import Setting, Timed
from models.result import Environment

FLOOR = "floor"
OURS = "ours"
OURS_WITH_CHECKPOINTS = "ours, a checkpoint per epoch"
SIDE_BY_SIDE = "two of ours side by side, together"
TEXTBOOKS = ("textbook, 0 workers", "textbook, 2 workers")
_LIGHTNING = ("Lightning, the same loader, 0 workers", "Lightning, TensorDataset")

_SECONDS = 180.0  # for one measurement
_LARGEST_DISTANCE = 1e-3  # of losses after the same steps; rounding makes some 1e-6

Rates = dict[str, list[float]]
Say = Callable[[str], None]


@dataclass(frozen=True)
class _Loop:
    """A function, its arguments after the setting, and whether its process is prepared as a worker's."""

    function: str
    arguments: tuple[object, ...] = ()
    as_worker: bool = False


_LOOPS = {
    TEXTBOOKS[0]: _Loop("benchmarks.textbook:textbook", (0,)),
    TEXTBOOKS[1]: _Loop("benchmarks.textbook:textbook", (2,)),
    _LIGHTNING[0]: _Loop("benchmarks.lightning_loop:lightning_with_loader"),
    _LIGHTNING[1]: _Loop("benchmarks.lightning_loop:lightning_with_tensors"),
    OURS: _Loop("benchmarks.ours:ours", (False,), as_worker=True),
    OURS_WITH_CHECKPOINTS: _Loop("benchmarks.ours:ours", (True,), as_worker=True),
    SIDE_BY_SIDE: _Loop("benchmarks.ours:side_by_side", as_worker=True),
    FLOOR: _Loop("benchmarks.floor:floor", as_worker=True),
}


def lightning_is_installed() -> bool:
    """Tell whether the extra `bench` is."""
    return importlib.util.find_spec("lightning") is not None


class Bench:
    """The processes that measure, and how often."""

    def __init__(self, worker: Forker, student: Forker, repeats: int, say: Say) -> None:
        self._worker, self._student, self._say = worker, student, say
        self.repeats = repeats

    @classmethod
    @contextmanager
    def started(cls, repeats: int, say: Say) -> Iterator["Bench"]:
        """Start the processes, and end them."""
        lightning = ["benchmarks.lightning_loop"] if lightning_is_installed() else []
        ours = ["worker.preload", "benchmarks.ours", "benchmarks.floor"]
        theirs = ["benchmarks.textbook", "benchmarks.agreement", *lightning]
        with (
            Forker(ours, prepare="worker.start:prepare_environment_of_runners") as worker,
            Forker(theirs) as student,
        ):
            yield cls(worker, student, repeats, say)

    def rates(self, settings: Sequence[Setting]) -> dict[str, Rates]:
        """Return images per second by row and loop, in the order of the repeats; two jobs share no GPU."""
        left_out = set() if lightning_is_installed() else set(_LIGHTNING)
        left_out |= {SIDE_BY_SIDE} if settings[0].device == "cuda" else set()
        loops = {name: loop for name, loop in _LOOPS.items() if name not in left_out}
        found: dict[str, Rates] = {setting.row.name: {name: [] for name in loops} for setting in settings}
        for repeat in range(self.repeats):
            for setting in settings:
                for name, loop in loops.items():
                    timed: Timed = self._call(loop.as_worker, loop.function, setting, *loop.arguments)
                    found[setting.row.name][name].append(timed.rate)
                    self._say(f"{repeat + 1}/{self.repeats} {setting.row.name}, {name}: {timed.rate:,.0f} images/s")
        return found

    def agreement(self, settings: Sequence[Setting]) -> dict[str, float]:
        """Return the largest distance of losses by row; raise MeasurementFailed where loops do not do the same."""
        found = {}
        for setting in settings:
            function = "benchmarks.agreement:agreement"
            distances: dict[str, float] = self._call(False, function, setting, lightning_is_installed())
            self._say(f"{setting.row.name}, losses differ from ours by {distances}")
            found[setting.row.name] = max(distances.values())
            if found[setting.row.name] > _LARGEST_DISTANCE:
                raise MeasurementFailed(f"{setting.row.name}: the loops do not do the same, losses differ: {distances}")
        return found

    def replicas(self, setting: Setting, count: int, repeats: int) -> dict[str, list[float]]:
        """Return images per second, all replicas counted, of one job with so many and of as many jobs in turn."""
        functions = {"together": "benchmarks.ours:replicas_together", "in turn": "benchmarks.ours:jobs_in_turn"}
        found: dict[str, list[float]] = {name: [] for name in functions}
        for _ in range(repeats):
            for name, function in functions.items():
                timed: Timed = self._call(True, function, setting, count)
                found[name].append(timed.rate)
                self._say(f"{setting.row.name}, {count} {name}: {timed.rate:,.0f} images/s")
        return found

    def latencies(self, settings: Sequence[Setting], repeats: int) -> dict[tuple[str, int], list[tuple[float, float]]]:
        """Return by row and batch size the seconds of a pass in a result, and in a bare loop, for each repeat."""
        found: dict[tuple[str, int], list[tuple[float, float]]] = {}
        for _ in range(repeats):
            for setting in settings:
                for size, measured, bare in self._call(True, "benchmarks.floor:latency", setting):
                    found.setdefault((setting.row.name, size), []).append((measured, bare))
                    self._say(f"{setting.row.name}, latency at {size}: {measured * 1e6:.1f} us, bare {bare * 1e6:.1f}")
        return found

    def reference_run(self, setting: Setting) -> tuple[float, float]:
        """Return the seconds of the whole recipe, with and without its validation."""
        found: tuple[float, float] = self._call(True, "benchmarks.ours:reference_run", setting)
        self._say(f"{setting.row.name}, whole reference run: {found[0]:.1f} s")
        return found

    def environment(self, device: str) -> Environment:
        """Return the machine and its software; the device `auto` is a GPU where there is one."""
        found: Environment = self._call(True, "benchmarks.ours:environment", device)
        return found

    def _call(self, as_worker: bool, function: str, *arguments: object) -> Any:
        forker = self._worker if as_worker else self._student
        return forker.call(function, *arguments, seconds=_SECONDS)
