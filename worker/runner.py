"""The runner: a process of its own that trains one attempt of one job; it knows no database and no queue."""

import math
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection

from models.errors import BatchOfOne, InvalidData
from models.faults import FaultPoint, fault_point
from models.network import NetworkSummary
from models.result import DatasetReport
from worker import checkpoints
from worker.failures import failure_of
from worker.messages import GO_ON, STOP, Assignment, EpochEnded, Event, Failed, Phase, SavedCheckpoint, Succeeded
from worker.other_ranks import OtherRanks
from worker.rank import Rank, follow_first, prepare_process
from worker.report import Measured, build_result
from worker.report_predictions import report_predictions
from worker.stopwatch import StartPhase, Stopwatch
from worker.training.inspection import inspect
from worker.training.latency import measure_latency
from worker.training.loop import measure_penalty, now
from worker.training.memory import peak_reserved_bytes
from worker.training.replicas import Replicas
from worker.training.splits import Splits, evaluate_splits

_TELLING = threading.Lock()  # two threads may tell: the one that trains, and the one that watches the other ranks


def run(stopwatch: Stopwatch, assignment: str, commands: Connection, events: Connection, output: Connection) -> None:
    """Entry point of the process: train what the assignment (JSON) says and send events until the end."""
    os.setsid()  # whatever this job starts dies with it, by its process group
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    task = Assignment.model_validate_json(assignment)
    others = OtherRanks.forked(len(task.gpus), partial(follow_first, task))  # before there are threads and CUDA
    stop = threading.Event()
    threading.Thread(target=_obey, args=(commands, stop), name="commands", daemon=True).start()
    others.watch(partial(_send, events))
    outcome: Succeeded | Failed | None
    try:
        prepare_process(task)
        outcome = _Run(task, events, stop, stopwatch, others).outcome()
    except Exception as error:  # noqa: BLE001 - whatever happened, the job must be told
        outcome = failure_of(error)
        others.end(outcome)
    if outcome is not None:
        _send(events, outcome)


class _Run(Rank):
    """One attempt from its data to its result, by its first rank."""

    def __init__(
        self, task: Assignment, events: Connection, stop: threading.Event, stopwatch: Stopwatch, others: OtherRanks
    ) -> None:
        super().__init__(task, others.ranks)
        self.events, self.stop, self.stopwatch, self.others = events, stop, stopwatch, others
        self._ended("device")

    def outcome(self) -> Succeeded | None:
        """Train to the end and measure, or return None where a stop was asked for."""
        self._say("Reads the data set.")
        fault_point(FaultPoint.DATA_LOADING)
        data = self.prepare_data()
        self._ended("data")
        self._say("Builds the network.")
        replicas = self.build()
        self._require_batches_that_normalise(replicas.first.summary, data[0].report.splits["train"].samples)
        self.others.start(self._resume(replicas, data[0].report))
        self._ended("network")
        splits = self.put_splits(data, replicas.first.memory_format)
        self._ended("data")
        with self._all_ranks():
            if self.stop.is_set():
                return None
            self._say(f"Trains on {self.device.type}.")
            for metrics in replicas.fit(self.spec.training, splits):
                content = replicas.state_dict() | {"data": data[0].report.checksum}
                saved = checkpoints.save(self.task.artifacts, content, attempt=self.task.attempt, epoch=metrics.epoch)
                fault_point(FaultPoint.CHECKPOINT_SAVED)
                _send(self.events, EpochEnded(metrics=metrics, checkpoint=saved))
                if self.stop.is_set():
                    return None
        self._say("Evaluates.")
        fault_point(FaultPoint.FINAL_EVALUATION)
        measured = self._measure(replicas, splits)
        result = build_result(self.spec, replicas, measured, data, self.task.git_commit)
        result = result.model_copy(update={"initial_checkpoint": self.task.initial})
        predictions = report_predictions(measured.replicas[0].test, data[0])
        peak = peak_reserved_bytes() if self.device.type == "cuda" else None
        return Succeeded(result=result.model_dump(mode="json"), predictions=predictions, peak_gpu_bytes=peak)

    @contextmanager
    def _all_ranks(self) -> Iterator[None]:
        """Train with the others, and let them end; where an error leaves this, they are killed by `run`."""
        self.ranks.meet(self.device)
        yield
        self.others.dismiss()
        self.ranks.leave()

    def _resume(self, replicas: Replicas, data: DatasetReport) -> SavedCheckpoint | None:
        """Go on from the newest checkpoint, and return it; without one, begin with the weights that were asked for.

        Raises InitialCheckpointLost, or InvalidData where it was trained on other data than there are now.
        """
        found = checkpoints.load_newest(self.task.artifacts, self.task.checkpoints, partial(_send, self.events))
        if found is None:
            if self.task.checkpoints:
                print("No checkpoint can be used: the training begins anew.", flush=True)
            self.load_initial_weights(replicas)
            return None
        saved, checkpoint = found
        if saved["data"] != data.checksum:
            raise InvalidData(
                f"The data set {data.name} has changed since epoch {checkpoint.epoch}: one training cannot go on "
                "over two data sets. Put the old data back, or submit the job again."
            )
        replicas.load_state_dict(saved)
        print(f"Attempt {self.task.attempt} goes on after epoch {checkpoint.epoch}.", flush=True)
        return checkpoint

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


def _obey(commands: Connection, stop: threading.Event) -> None:
    """Set and clear `stop` as the supervisor says; end at once when it is gone or the lease is over.

    Nobody would record what follows, and another runner may have the job. Leases are moments of time.monotonic(),
    which all processes of a host share.
    """
    lease_end: float | None = None
    try:
        while commands.poll(None if lease_end is None else max(0.0, lease_end - time.monotonic())):
            command = commands.recv_bytes()
            if command == STOP:
                stop.set()
            elif command == GO_ON:
                stop.clear()
            else:
                lease_end = float(command)
    except EOFError:
        os._exit(1)
    os._exit(1)


def _send(events: Connection, event: Event) -> None:
    with _TELLING:
        events.send_bytes(event.model_dump_json().encode())
