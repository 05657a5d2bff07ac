"""What every measurement is told: the row, the images, the device and the threads; and what it answers."""

from dataclasses import dataclass, field

from benchmarks.images import Images
from benchmarks.rows import Row


@dataclass(frozen=True)
class Setting:
    """Where and on what a loop runs; `device` is cpu or cuda, `threads` those of a job of ours that runs alone."""

    row: Row
    images: Images
    device: str
    threads: int


@dataclass(frozen=True)
class Timed:
    """Training images that went through steps between two moments, in seconds of a clock that all processes share.

    `losses` are those of the steps, where the loop looks at them.
    """

    images: int
    started: float
    ended: float
    losses: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.started

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.seconds
