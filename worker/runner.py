"""The runner: a process of its own that trains one attempt of one job; it knows no database and no queue."""

import ctypes
import math
import os
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection

import numpy as np
import torch
from torch import nn

from models.datasets import DATASETS
from models.errors import BatchOfOne, DeviceUnavailable, NonFiniteLoss, TrainyardError
from models.result import DatasetReport
from worker import checkpoints, datasets
from worker.datasets.splits import stratified_holdout
from worker.messages import STOP, Assignment, EpochEnded, Event, Failed, Phase, Succeeded
from worker.report import Measured, build_result, count_samples
from worker.training.data import DeviceSplit
from worker.training.latency import measure_latency
from worker.training.loop import evaluate, fit, now, squared_weights
from worker.training.state import TrainState

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEEP_BYTES = 2**30
_PROGRESS_SECONDS = 1.0


def run(assignment: str, commands: Connection, events: Connection, output: Connection) -> None:
    """Entry point of the process: train what the assignment (JSON) says and send events until the end."""
    os.setsid()  # whatever this job starts dies with it, by its process group
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    stop = threading.Event()
    threading.Thread(target=_obey, args=(commands, stop), name="commands", daemon=True).start()
    outcome: Succeeded | Failed | None
    try:
        task = Assignment.model_validate_json(assignment)
        _prepare_process(task)
        outcome = _Run(task, events, stop).outcome()
    except TrainyardError as error:
        outcome = Failed(reason=error.code, message=str(error))
    except (torch.OutOfMemoryError, MemoryError) as error:
        traceback.print_exc()
        outcome = Failed(reason="out_of_memory", message=f"The memory did not suffice: {error}")
    except Exception as error:  # noqa: BLE001 - whatever happened, the job must be told
        traceback.print_exc()
        # On the CPU torch says that memory did not suffice with a plain RuntimeError.
        reason = "out_of_memory" if "DefaultCPUAllocator: can't allocate memory" in str(error) else "runner_error"
        outcome = Failed(reason=reason, message=f"{type(error).__name__}: {error}")
    if outcome is not None:
        _send(events, outcome)


class _Run:
    """One attempt from its data to its result."""

    def __init__(self, task: Assignment, events: Connection, stop: threading.Event) -> None:
        self.task, self.spec, self.events, self.stop = task, task.spec, events, stop
        self.started = time.perf_counter()
        self.device = _device(self.spec.resources.device)

    def outcome(self) -> Succeeded | None:
        """Train to the end and measure, or return None where a stop was asked for."""
        self._say("Reads the data set.")
        train, validation, test, report = self._load_data()
        self._require_batches_that_normalise(len(train))
        state = TrainState.fresh(self.spec, self.device)
        self._resume(state)
        setup_seconds = now(self.device) - self.started
        self._say(f"Trains on {self.device.type}.")
        for metrics in fit(state, self.spec.training, train, validation):
            saved = checkpoints.save(
                self.task.artifacts, state.state_dict(), attempt=self.task.attempt, epoch=metrics.epoch
            )
            _send(self.events, EpochEnded(metrics=metrics, checkpoint=saved))
            if self.stop.is_set():
                return None
        self._say("Evaluates.")
        measured = self._measure(state, train, validation, test, setup_seconds)
        result = build_result(
            self.spec, state.history, measured, test.labels, report, self.device, self.task.git_commit
        )
        return Succeeded(result=result.model_dump(mode="json"))

    def _load_data(self) -> tuple[DeviceSplit, DeviceSplit | None, DeviceSplit, DatasetReport]:
        spec = self.spec.dataset
        data = datasets.load(
            spec.name,
            resize=spec.resize,
            root=self.task.datasets,
            download=self.task.download,
            progress=_print_progress(spec.name),
        )
        kept, held_out = self._validation_split(data.train.labels)
        test = self._on_device(data.test.images, data.test.labels)
        train = self._on_device(data.train.images[kept], data.train.labels[kept])
        splits = {"train": count_samples(data.train.labels[kept], data.classes)}
        validation = test if spec.validation == "test" else None
        if held_out is not None:
            validation = self._on_device(data.train.images[held_out], data.train.labels[held_out])
            splits["validation"] = count_samples(data.train.labels[held_out], data.classes)
        splits["test"] = count_samples(data.test.labels, data.classes)
        report = DatasetReport(
            name=spec.name, input_shape=list(spec.input_shape), checksum=data.checksum, splits=splits
        )
        return train, validation, test, report

    def _validation_split(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        fraction = self.spec.dataset.validation
        if fraction == "test" or fraction == 0:
            return np.arange(len(labels)), None
        assert self.spec.training.seed is not None, "a resolved spec has a seed"
        return stratified_holdout(labels, fraction, self.spec.training.seed)

    def _on_device(self, images: np.ndarray, labels: np.ndarray) -> DeviceSplit:
        facts = DATASETS[self.spec.dataset.name]
        return DeviceSplit(images, labels, mean=facts.mean, std=facts.std, device=self.device)

    def _resume(self, state: TrainState) -> None:
        found = checkpoints.load_newest(self.task.artifacts, self.task.checkpoints)
        if found is not None:
            saved, checkpoint = found
            state.load_state_dict(saved)
            print(f"Attempt {self.task.attempt} goes on after epoch {checkpoint.epoch}.", flush=True)

    def _measure(
        self,
        state: TrainState,
        train: DeviceSplit,
        validation: DeviceSplit | None,
        test: DeviceSplit,
        setup_seconds: float,
    ) -> Measured:
        started = now(self.device)
        network = state.network
        trained = evaluate(state, train)
        tested = evaluate(state, test)
        validated = tested if validation is test else evaluate(state, validation) if validation else None
        return Measured(
            train=trained,
            validation=validated,
            test=tested,
            penalty=self._penalty(network),
            latency=measure_latency(network, test),
            setup_seconds=setup_seconds,
            evaluation_seconds=now(self.device) - started,
            trainable_parameters=sum(p.numel() for p in network.parameters() if p.requires_grad),
        )

    def _penalty(self, network: nn.Module) -> float:
        l2_penalty = self.spec.training.l2_penalty
        if not l2_penalty:
            return 0.0
        penalty = l2_penalty * float(squared_weights(network).detach())
        if not math.isfinite(penalty):
            raise NonFiniteLoss(f"The penalty after the last epoch is {penalty}.")
        return penalty

    def _require_batches_that_normalise(self, train_samples: int) -> None:
        """Refuse a last batch of one sample where batch norm sees one value per channel: it has no variance."""
        batch_size = self.spec.training.batch_size
        if (train_samples % batch_size or batch_size) != 1:
            return
        for place in self.spec.summary().layers:
            if place.kind == "batch_norm2d" and place.input_shape[1:] == (1, 1):
                raise BatchOfOne(
                    f"The last batch of each epoch has one of {train_samples:,} samples, and batch norm (layer "
                    f"{place.index}) on a 1x1 map cannot normalise it: choose another batch size."
                )

    def _say(self, message: str) -> None:
        _send(self.events, Phase(message=message))


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


def _prepare_process(task: Assignment) -> None:
    warnings.simplefilter("default")
    # CUDA reads it at its first use, which is in this process.
    os.environ["CUDA_VISIBLE_DEVICES"] = task.gpu or ""  # noqa: TID251
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
