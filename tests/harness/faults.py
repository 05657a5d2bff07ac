"""The fault points of a stack: armed by a test, waited for, and let go."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from models.faults import FaultPoint

_POLL_SECONDS = 0.002


class FaultPoints:
    """The moments at which a process of one stack can be held, over the directory that its children look into."""

    def __init__(self, directory: Path) -> None:
        """Watch this directory, which the children know as TRAINYARD_FAULT_POINTS."""
        self._directory = directory
        self._armings = count()

    def arm(self, point: FaultPoint, *, passes: int = 0) -> None:
        """Hold the first process that comes to the point, after it has passed so many times since now."""
        aside = self._directory / f".{point}"
        aside.write_text(f"{passes} {next(self._armings)}")
        aside.rename(self._directory / point)  # whole, or not there

    def held(self, point: FaultPoint, seconds: float = 120) -> int:
        """Wait until a process is held at the point, and return its id."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for pid in self.held_now(point):
                return pid
            time.sleep(_POLL_SECONDS)
        raise AssertionError(f"no process came to {point} within {seconds} s")

    def held_now(self, point: FaultPoint) -> list[int]:
        """Return the ids of the processes that are held at the point at this moment."""
        return [int(file.suffix[1:]) for file in self._directory.glob(f"{point}.*")]

    def release(self, point: FaultPoint) -> None:
        """Let whoever is held there go on, and hold nobody any more."""
        (self._directory / point).unlink(missing_ok=True)
        for file in self._directory.glob(f"{point}.*"):
            file.unlink()

    @contextmanager
    def holding(self, point: FaultPoint, *, passes: int = 0) -> Iterator[Callable[[], int]]:
        """Arm the point for the body, and yield what waits for the process held there; at the end it goes on."""
        self.arm(point, passes=passes)
        try:
            yield lambda: self.held(point)
        finally:
            self.release(point)
