"""What a supervisor and its runner say to each other through their pipes; JSON, checked on arrival."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter

from models.result import EpochMetrics, InitialWeights
from models.spec import JobSpec

STOP = b"stop"  # a command of the supervisor: leave the loop after this epoch; what is no word is a renewed lease's end
GO_ON = b"go on"  # a command: the loop is not to be left after all
INITIAL_FILE = "initial.pt"  # in a job's directory: the checkpoint of another job that it began with
RANK_DIED = 70  # the exit code of a runner one of whose other ranks died, which its log names
CHECKPOINTS_KEPT = 2  # the last, and the one before in case the last is damaged


_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")  # all but line feeds


def _storable(text: str) -> str:
    """Return text that Postgres stores and a terminal shows: a file name or a library's message may hold anything."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


Sentence = Annotated[str, BeforeValidator(_storable)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SavedCheckpoint(_Message):
    """A checkpoint file under the job's artifact directory, as Postgres knows it."""

    attempt: int  # that wrote it; the file says it too
    epoch: int
    file: str
    sha256: str


class Assignment(_Message):
    """Everything that a runner needs to train one attempt of a job."""

    job_id: UUID
    attempt: int
    spec: JobSpec
    artifacts: Path  # of this job
    datasets: Path
    download: bool
    checkpoints: list[SavedCheckpoint]  # newest first
    initial: InitialWeights | None = None  # to begin with, where there is no checkpoint; the file is INITIAL_FILE
    threads: int
    slots: int = 1  # of the worker, which share the memory of its host
    data_limit_bytes: int | None = None  # more than this is not put on the device; None: by the memory that is free
    gpus: list[str]  # UUIDs for CUDA_VISIBLE_DEVICES; none: it trains on the CPU
    gpu_memory_bytes: int | None = None  # what it may take of a GPU that it shares; None: nobody shares it
    git_commit: str | None


class Phase(_Message):
    """What the runner does now, as a sentence for a person."""

    type: Literal["phase"] = "phase"
    message: Sentence


class EpochEnded(_Message):
    """An epoch is finished and its checkpoint is on disk."""

    type: Literal["epoch"] = "epoch"
    metrics: EpochMetrics
    checkpoint: SavedCheckpoint


class CheckpointSkipped(_Message):
    """A checkpoint that is not what Postgres knows of it, and was passed over for an older one."""

    type: Literal["checkpoint_skipped"] = "checkpoint_skipped"
    checkpoint: SavedCheckpoint
    why: Sentence


class Predicted(_Message):
    """What the network says of each test sample, in the order of the split; each list has an entry per sample.

    A classification has classes and the softmax probability of the predicted one; a regression has numbers on the
    target's own scale. `indices` is where the samples stand in the data that they were held out of, None for 0, 1, ...;
    jobs with equal `samples_digest` were tested on the same samples in the same order.
    """

    samples_digest: str
    indices: list[int] | None
    labels: list[int] | None = None
    predictions: list[int] | None = None
    probabilities: list[float] | None = None
    targets: list[float] | None = None
    estimates: list[float] | None = None


class Succeeded(_Message):
    """The result, but for the times that only the database knows, and the predictions, where they are few enough.

    `peak_gpu_bytes` is the most that torch ever held of one GPU, None on the CPU.
    """

    type: Literal["succeeded"] = "succeeded"
    result: dict[str, Any]
    predictions: Predicted | None
    peak_gpu_bytes: int | None = None


class Failed(_Message):
    """The job cannot succeed: a stable reason and a sentence; `cuda` says that a GPU gave no more memory."""

    type: Literal["failed"] = "failed"
    reason: str
    message: Sentence
    cuda: bool = False


Event = Annotated[Phase | CheckpointSkipped | EpochEnded | Succeeded | Failed, Field(discriminator="type")]
EVENT: TypeAdapter[Event] = TypeAdapter(Event)
