"""What only a running service shows: how soon a job trains after its `POST`, and the memory of a runner."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil

from benchmarks.images import Images
from benchmarks.processes import MeasurementFailed
from local.stack import Stack

_SMALL = {"dataset": {"name": "digits"}, "network": {"name": "mlp"}, "training": {"epochs": 1, "batch_size": 64}}
_CIFAR10 = {"recipe": "lenet", "training": {"epochs": 50}}
_FINAL = {"succeeded", "failed", "cancelled"}
_WAIT_SECONDS = 10
_JOB_SECONDS = 120.0
_POLL_SECONDS = 0.02
_WORKER = "worker-1"


@dataclass(frozen=True)
class Start:
    """Seconds from a job's POST until a client sees its first epoch, less that epoch, and its `setup_seconds`."""

    seen: float
    setup: float


@dataclass(frozen=True)
class Memory:
    """Bytes of a runner that trains: resident, and those of them that it shares with no other process."""

    resident: int
    own: int


class IdleService:
    """A service with one slot that nobody else uses."""

    def __init__(self, stack: Stack, http: httpx2.Client) -> None:
        self._stack, self._http = stack, http

    @classmethod
    @contextmanager
    def started(cls, folder: Path, images: Images) -> Iterator["IdleService"]:
        """Start a service with a data directory of its own; its forkserver is warm, and data are decoded."""
        stack = Stack(folder / "service", environment={"TRAINYARD_DATASETS_DIR": str(images.datasets)})
        with stack, stack.client(timeout=_WAIT_SECONDS + 20) as http:
            service = cls(stack, http)
            service.start_of_a_job()
            yield service

    def start_of_a_job(self) -> Start:
        """Submit a small job and wait for its end.

        The first step is sooner than its epoch is seen: that also takes a checkpoint, a record and an answer.
        """
        started = time.perf_counter()
        job = self._post("/jobs", _SMALL)["id"]
        epoch = self._first_epoch(job)
        seen = time.perf_counter() - started - float(epoch["seconds"])
        self._wait_for_end(job)
        return Start(seen, self._get(f"/jobs/{job}/result")["timing"]["setup_seconds"])

    def memory_with_cifar10(self) -> Memory:
        """Return the memory of the runner of a LeNet on CIFAR-10 after its first epoch."""
        job = self._post("/jobs", _CIFAR10)["id"]
        self._first_epoch(job)
        used = self._runner().memory_full_info()
        self._post(f"/jobs/{job}/cancel", None)
        self._wait_for_end(job)
        return Memory(used.rss, used.uss)

    def _first_epoch(self, job: str) -> dict[str, Any]:
        def read() -> dict[str, Any] | None:
            news = self._get(f"/jobs/{job}/metrics", after=0, wait=_WAIT_SECONDS)
            if news["terminal"] and not news["epochs"]:
                raise MeasurementFailed(f"a job ended without an epoch: {self._job(job)['message']}")
            return news["epochs"][0] if news["epochs"] else None

        epoch: dict[str, Any] = _until(read)
        return epoch

    def _wait_for_end(self, job: str) -> None:
        _until(lambda: self._job(job)["status"] in _FINAL or None)

    def _runner(self) -> psutil.Process:
        """Return the process of the one runner: a child of the worker's forkserver."""
        children = psutil.Process(self._stack.pid(_WORKER)).children()
        (runner,) = (runner for child in children for runner in child.children())
        return runner

    def _job(self, job: str) -> dict[str, Any]:
        return self._get(f"/jobs/{job}")

    def _get(self, path: str, **parameters: int) -> dict[str, Any]:
        view: dict[str, Any] = self._http.get(path, params=parameters).raise_for_status().json()
        return view

    def _post(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        view: dict[str, Any] = self._http.post(path, json=body).raise_for_status().json()
        return view


def seconds_of_fresh_process() -> float:
    """Return the seconds from the start of a Python process to the first step of the script that it runs."""
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.first_step"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None, "it was asked for"
        line = process.stdout.readline()
        seconds = time.perf_counter() - started
    if not line:
        raise MeasurementFailed("the script ended without a step")
    return seconds


def _until(found: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + _JOB_SECONDS
    while (answer := found()) is None:
        if time.monotonic() > deadline:
            raise MeasurementFailed(f"a job took longer than {_JOB_SECONDS:.0f} s")
        time.sleep(_POLL_SECONDS)
    return answer
