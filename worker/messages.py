"""What a supervisor and its runner say to each other through their pipes; JSON, checked on arrival."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter

from models.result import EpochMetrics
from models.spec import JobSpec

STOP = b"stop"  # a command of the supervisor: leave the loop after this epoch; any other is a renewed lease's end
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
    threads: int
    slots: int = 1  # of the worker, which share the memory of its host
    slots_per_gpu: int = 1  # which share that of the GPU
    data_limit_bytes: int | None = None  # more than this is not put on the device; None: by the memory that is free
    gpu: str | None  # a UUID for CUDA_VISIBLE_DEVICES
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
    """The result, but for the times that only the database knows, and the predictions, where they are few enough."""

    type: Literal["succeeded"] = "succeeded"
    result: dict[str, Any]
    predictions: Predicted | None


class Failed(_Message):
    """The job cannot succeed: a stable reason and a sentence."""

    type: Literal["failed"] = "failed"
    reason: str
    message: Sentence


Event = Annotated[Phase | EpochEnded | Succeeded | Failed, Field(discriminator="type")]
EVENT: TypeAdapter[Event] = TypeAdapter(Event)
