"""Whether the processes of a stack hold more and more: each looked at through its life, and all of them when idle."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import psutil

from harness.service import Service

_WARM_SECONDS = 30.0  # in which a process loads what it needs and fills its pools and caches
_LEAST_SECONDS = 30.0  # that a process must have lived beyond that for its growth to be told from noise
_FILES_OF_RUNNER = 5  # that its worker has open: the ends of its pipes, and what tells of its end


@dataclass(frozen=True)
class Held:
    """What a process holds: bytes of memory, and open files."""

    resident: int
    files: int

    @classmethod
    def by(cls, process: psutil.Process, runners: int) -> "Held":
        """Look at the process alone, without the files that it holds for so many runners.

        What a forkserver shares with its runners is part of what it holds.
        """
        return cls(process.memory_info().rss, process.num_fds() - _FILES_OF_RUNNER * runners)

    @classmethod
    def by_all_below(cls, pid: int) -> "Held":
        """Look at the process and all below it; what they share counts once."""
        process = psutil.Process(pid)
        everybody = [process, *process.children(recursive=True)]
        return cls(sum(one.memory_full_info().pss for one in everybody), sum(one.num_fds() for one in everybody))


# Between two parts of a life without a leak the medians differed by 3 MiB and 8 files at most: more runs just then, and
# a pool has more connections. A worker of the soak begins an attempt every one to three seconds, and the API answers
# several requests in each: what leaks 256 KiB or one file with each of them is beyond this within a minute.
_NOISE = Held(4 * 2**20, 10)
_PER_HOUR = Held(16 * 2**20, 4)  # beyond that, so that hours of soak are held to a rate that no lab would notice


@dataclass(frozen=True)
class Life:
    """What a process held at moments of its life, in seconds since its start."""

    name: str
    looks: Sequence[tuple[float, Held]]

    @property
    def seconds(self) -> float:
        """How long it was looked at."""
        return self.looks[-1][0] - self.looks[0][0] if self.looks else 0.0

    @property
    def growth(self) -> Held:
        """By how much more it held in the last third of its life than in the first: the medians, under load."""
        third = max(1, len(self.looks) // 3)
        early, late = self.looks[:third], self.looks[-third:]
        return Held(
            round(median(held.resident for _, held in late) - median(held.resident for _, held in early)),
            round(median(held.files for _, held in late) - median(held.files for _, held in early)),
        )

    @property
    def allowed(self) -> Held:
        """By how much it may have grown."""
        hours = self.seconds / 3600
        return Held(round(_NOISE.resident + hours * _PER_HOUR.resident), round(_NOISE.files + hours * _PER_HOUR.files))


class Lives:
    """The lives of a stack's processes, as far as they were looked at."""

    def __init__(self, service: Service) -> None:
        """Look at nothing yet."""
        self._service = service
        self._looks: defaultdict[tuple[str, psutil.Process], list[tuple[float, Held]]] = defaultdict(list)

    def look(self) -> None:
        """Look at each process that is warm."""
        for name, process in self._processes():
            try:
                age = time.time() - process.create_time()
                if age >= _WARM_SECONDS:
                    runners = len(self._service.runners(name)) if name.startswith("worker") else 0
                    self._looks[name, process].append((age, Held.by(process, runners)))
            except psutil.NoSuchProcess:
                continue

    def long_ones(self) -> list[Life]:
        """Return the lives that can be judged."""
        lives = [Life(name, looks) for (name, _), looks in self._looks.items()]
        return [life for life in lives if life.seconds >= _LEAST_SECONDS]

    def _processes(self) -> Iterator[tuple[str, psutil.Process]]:
        for name in self._service.stack.children:
            if not self._service.stack.is_running(name):
                continue
            try:
                process = psutil.Process(self._service.stack.pid(name))
                yield name, process
                if name.startswith("worker"):
                    for child in process.children():
                        if "multiprocessing.forkserver" in " ".join(child.cmdline()):
                            yield f"forkserver of {name}", child
            except psutil.NoSuchProcess:
                continue


def held_by_children(service: Service) -> Mapping[str, Held]:
    """Return what each child of the stack holds now, with all below it."""
    return {name: Held.by_all_below(service.stack.pid(name)) for name in service.stack.children}
