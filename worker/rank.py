"""What every rank of an attempt prepares - its process, data and networks - and what those beside the first then do."""

import ctypes
import os
import time
import warnings
from collections.abc import Callable, Sequence

import torch

from models.errors import DeviceUnavailable, InvalidData
from worker import checkpoints, datasets
from worker.datasets import PreparedData
from worker.failures import failure_of
from worker.messages import INITIAL_FILE, Assignment, Failed
from worker.other_ranks import Orders
from worker.training.loop import follow
from worker.training.memory import bound_tensors, data_limit, gpu_data_limit
from worker.training.precision import prepare_precision
from worker.training.ranks import Ranks
from worker.training.replicas import Replicas
from worker.training.splits import Splits, put_splits

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEEP_BYTES = 2**30
_PROGRESS_SECONDS = 1.0
_WEIGHTS = "weights"  # under the data set directory: files that an admin placed for torchvision's networks


def follow_first(task: Assignment, ranks: Ranks, orders: Orders) -> Failed | None:
    """Train with rank 0 the epochs that it begins, as another rank in a process of its own; return why that failed.

    Rank 0 alone evaluates, keeps checkpoints and tells of them.
    """
    try:
        prepare_process(task, ranks.number)
        Rank(task, ranks).follow(orders)
    except Exception as error:  # noqa: BLE001 - whatever happened, the job must be told
        return failure_of(error)
    return None


class Rank:
    """A rank with its part of an assignment."""

    def __init__(self, task: Assignment, ranks: Ranks) -> None:
        """Find the device."""
        self.task, self.spec, self.ranks = task, task.spec, ranks
        self.device = _device(self.spec.resources.device)
        if task.gpu_memory_bytes is not None and self.device.type == "cuda":
            bound_tensors(task.gpu_memory_bytes)

    def prepare_data(self) -> list[PreparedData]:
        """Return the data of each replica, prepared before or now."""
        return datasets.prepare_each(
            self.spec.dataset,
            seeds=self.spec.training.seeds,
            root=self.task.datasets,
            download=self.task.download,
            progress=_print_progress(self.spec.dataset.name),
        )

    def build(self) -> Replicas:
        """Build the networks as they begin."""
        return Replicas.fresh(self.spec, self.device, weights=self.task.datasets / _WEIGHTS, ranks=self.ranks)

    def load_initial_weights(self, replicas: Replicas) -> None:
        """Begin with the weights that the job was to begin with, if any; raise InitialCheckpointLost."""
        if self.task.initial is not None:
            file = self.task.artifacts / INITIAL_FILE
            replicas.load_weights(checkpoints.load_initial(file, self.task.initial.sha256))

    def put_splits(self, data: Sequence[PreparedData], memory_format: torch.memory_format) -> list[Splits]:
        """Put the data on the device, where they fit."""
        limit = self.task.data_limit_bytes
        if limit is None and self.device.type == "cuda":
            measured = self.spec.resources.gpu_memory_gb == "auto"
            limit = gpu_data_limit(self.device, self.task.gpu_memory_bytes, measured=measured)
        elif limit is None:
            limit = data_limit(self.device, self.task.slots)
        return put_splits(data, self.device, memory_format=memory_format, limit_bytes=limit)

    def follow(self, orders: Orders) -> None:
        """Train the epochs that rank 0 begins, from where it says; raise InvalidData without that checkpoint."""
        checkpoint = orders.beginning()
        data = self.prepare_data()
        replicas = self.build()
        if checkpoint is not None:
            found = checkpoints.load_newest(self.task.artifacts, [checkpoint])
            if found is None:
                raise InvalidData(f"Checkpoint {checkpoint.file} was read by one GPU's process, and not by another's.")
            replicas.load_state_dict(found[0])
        else:
            self.load_initial_weights(replicas)
        splits = self.put_splits(data, replicas.first.memory_format)
        self.ranks.meet(self.device)
        follow(replicas.first, self.spec.training, splits[0].train, orders.epochs())
        self.ranks.leave()


def prepare_process(task: Assignment, rank: int = 0) -> None:
    """Set this process up for a job before it touches torch: its GPU, its precision, its threads and its memory.

    Each rank sees one of the job's GPUs, and has an even part of the threads.
    """
    warnings.simplefilter("default")
    # CUDA reads it at its first use, which is in this process.
    os.environ["CUDA_VISIBLE_DEVICES"] = "".join(task.gpus[rank : rank + 1])  # noqa: TID251
    prepare_precision(task.spec.training)
    torch.set_num_threads(max(1, task.threads // max(1, len(task.gpus))))
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
