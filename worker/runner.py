"""The runner: a process of its own that trains one attempt of one job; it knows no database and no queue."""

import ctypes
import math
import os
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

import torch

from models.errors import BatchOfOne, DeviceUnavailable, InvalidData, TrainyardError
from models.network import NetworkSummary
from models.result import DatasetReport
from worker import checkpoints, datasets
from worker.datasets import PreparedData
from worker.messages import STOP, Assignment, EpochEnded, Event, Failed, Phase, Succeeded
from worker.report import Measured, build_result
from worker.report_predictions import report_predictions
from worker.stopwatch import StartPhase, Stopwatch
from worker.training.inspection import inspect
from worker.training.latency import measure_latency
from worker.training.loop import measure_penalty, now
from worker.training.memory import data_limit
from worker.training.precision import prepare_precision
from worker.training.replicas import Replicas
from worker.training.splits import Splits, evaluate_splits, put_splits

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEEP_BYTES = 2**30
_PROGRESS_SECONDS = 1.0
# What torch says with plain errors of Python, by words of their message.
_REASONS = {
    "DefaultCPUAllocator: can't allocate memory": "out_of_memory",
    "does not have a deterministic implementation": "not_deterministic",
    "Expected more than 1 value per channel when training": "batch_of_one",
}
_WEIGHTS = "weights"  # under the data set directory: files that an admin placed for torchvision's networks


def run(stopwatch: Stopwatch, assignment: str, commands: Connection, events: Connection, output: Connection) -> None:
    """Entry point of the process: train what the assignment (JSON) says and send events until the end."""
    os.setsid()  # whatever this job starts dies with it, by its process group
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    stop = threading.Event()
    threading.Thread(target=_obey, args=(commands, stop), name="commands", daemon=True).start()
    outcome: Succeeded | Failed | None
    try:
        task = Assignment.model_validate_json(assignment)
        prepare_process(task)
        outcome = _Run(task, events, stop, stopwatch).outcome()
    except TrainyardError as error:
        outcome = Failed(reason=error.code, message=str(error))
    except (torch.OutOfMemoryError, MemoryError) as error:
        traceback.print_exc()
        outcome = Failed(reason="out_of_memory", message=f"The memory did not suffice: {error}")
    except Exception as error:  # noqa: BLE001 - whatever happened, the job must be told
        traceback.print_exc()
        outcome = Failed(reason=_reason_of(error), message=f"{type(error).__name__}: {error}")
    if outcome is not None:
        _send(events, outcome)


class _Run:
    """One attempt from its data to its result."""

    def __init__(self, task: Assignment, events: Connection, stop: threading.Event, stopwatch: Stopwatch) -> None:
        self.task, self.spec, self.events, self.stop = task, task.spec, events, stop
        self.stopwatch = stopwatch
        self.device = _device(self.spec.resources.device)
        self._ended("device")

    def outcome(self) -> Succeeded | None:
        """Train to the end and measure, or return None where a stop was asked for."""
        self._say("Reads the data set.")
        data = self._prepare_data()
        self._ended("data")
        self._say("Builds the network.")
        replicas = Replicas.fresh(self.spec, self.device, weights=self.task.datasets / _WEIGHTS)
        self._require_batches_that_normalise(replicas.first.summary, data[0].report.splits["train"].samples)
        self._resume(replicas, data[0].report)
        self._ended("network")
        splits = self._put_splits(data, replicas.first.memory_format)
        self._ended("data")
        self._say(f"Trains on {self.device.type}.")
        for metrics in replicas.fit(self.spec.training, splits):
            content = replicas.state_dict() | {"data": data[0].report.checksum}
            saved = checkpoints.save(self.task.artifacts, content, attempt=self.task.attempt, epoch=metrics.epoch)
            _send(self.events, EpochEnded(metrics=metrics, checkpoint=saved))
            if self.stop.is_set():
                return None
        self._say("Evaluates.")
        measured = self._measure(replicas, splits)
        result = build_result(self.spec, replicas, measured, data, self.task.git_commit)
        predictions = report_predictions(measured.replicas[0].test, data[0])
        return Succeeded(result=result.model_dump(mode="json"), predictions=predictions)

    def _prepare_data(self) -> list[PreparedData]:
        return datasets.prepare_each(
            self.spec.dataset,
            seeds=self.spec.training.seeds,
            root=self.task.datasets,
            download=self.task.download,
            progress=_print_progress(self.spec.dataset.name),
        )

    def _put_splits(self, data: Sequence[PreparedData], memory_format: torch.memory_format) -> list[Splits]:
        limit = self.task.data_limit_bytes
        if limit is None:
            sharing = self.task.slots_per_gpu if self.device.type == "cuda" else self.task.slots
            limit = data_limit(self.device, sharing)
        return put_splits(data, self.device, memory_format=memory_format, limit_bytes=limit)

    def _resume(self, replicas: Replicas, data: DatasetReport) -> None:
        """Go on from the newest checkpoint; raise InvalidData where it was trained on other data than there are now."""
        found = checkpoints.load_newest(self.task.artifacts, self.task.checkpoints)
        if found is not None:
            saved, checkpoint = found
            if saved["data"] != data.checksum:
                raise InvalidData(
                    f"The data set {data.name} has changed since epoch {checkpoint.epoch}: one training cannot go on "
                    "over two data sets. Put the old data back, or submit the job again."
                )
            replicas.load_state_dict(saved)
            print(f"Attempt {self.task.attempt} goes on after epoch {checkpoint.epoch}.", flush=True)

    def _measure(self, replicas: Replicas, splits: Sequence[Splits]) -> Measured:
        started = now(self.device)
        evaluations = []
        for member, own in zip(replicas.members, splits, strict=True):
            with member.at_work() as state:
                evaluations.append(evaluate_splits(state, own))
        first = replicas.first
        return Measured(
            replicas=evaluations,
            penalty=measure_penalty(first.network, self.spec.training.l2_penalty),
            latency=measure_latency(first, splits[0].test),
            inspection=inspect(first, splits[0].train),
            startup=self.stopwatch.startup(),
            evaluation_seconds=now(self.device) - started,
        )

    def _require_batches_that_normalise(self, summary: NetworkSummary, train_samples: int) -> None:
        """Refuse a last batch of one sample where batch norm sees one value per channel: it has no variance."""
        batch_size = self.spec.training.batch_size
        if (train_samples % batch_size or batch_size) != 1:
            return
        for place in summary.places():
            if place.kind.startswith("batch_norm") and math.prod(place.input_shape[1:]) == 1:
                raise BatchOfOne(
                    f"The last batch of each epoch has one of {train_samples:,} samples, and batch norm (layer "
                    f"{place.loc}) cannot normalise one value per channel: choose another batch size."
                )

    def _ended(self, phase: StartPhase) -> None:
        now(self.device)  # what the phase gave the device to do is done
        self.stopwatch.end(phase)

    def _say(self, message: str) -> None:
        _send(self.events, Phase(message=message))


def _reason_of(error: Exception) -> str:
    return next((reason for words, reason in _REASONS.items() if words in str(error)), "runner_error")


def _obey(commands: Connection, stop: threading.Event) -> None:
    """Set `stop` when the supervisor says so; end at once when it is gone or the lease is over.

    Nobody would record what follows, and another runner may have the job. Leases are moments of time.monotonic(),
    which all processes of a host share.
    """
    lease_end: float | None = None
    try:
        while commands.poll(None if lease_end is None else max(0.0, lease_end - time.monotonic())):
            command = commands.recv_bytes()
            if command == STOP:
                stop.set()
            else:
                lease_end = float(command)
    except EOFError:
        os._exit(1)
    os._exit(1)


def prepare_process(task: Assignment) -> None:
    """Set this process up for a job before it touches torch: its GPU, its precision, its threads and its memory."""
    warnings.simplefilter("default")
    # CUDA reads it at its first use, which is in this process.
    os.environ["CUDA_VISIBLE_DEVICES"] = task.gpu or ""  # noqa: TID251
    prepare_precision(task.spec.training)
    torch.set_num_threads(task.threads)
    # glibc gives large blocks back to the kernel after each step; a step then spends its time in page faults.
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)


def _device(wanted: str) -> torch.device:
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise DeviceUnavailable("The job asks for a GPU, and torch finds none on this worker.")
    return torch.device("cuda")


def _print_progress(name: str) -> Callable[[int, int], None]:
    last = 0.0

    def show(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > _PROGRESS_SECONDS or done == total:
            last = time.monotonic()
            print(f"Decoded {done:,} of {total:,} images of {name}.", flush=True)

    return show


def _send(events: Connection, event: Event) -> None:
    events.send_bytes(event.model_dump_json().encode())
