"""The worker's settings, from the environment."""

import socket
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from models.settings import Settings
from models.spec import DEFAULT_QUEUE
from models.validation import Name, QueueName

# An empty variable, as compose hands on one that is not set, is no number.
_UNSET_IF_EMPTY = BeforeValidator(lambda value: None if value == "" else value)
Days = Annotated[Annotated[float, Field(gt=0, le=36_500)] | None, _UNSET_IF_EMPTY]
Port = Annotated[Annotated[int, Field(ge=1, le=65_535)] | None, _UNSET_IF_EMPTY]
Gigabytes = Annotated[Annotated[float, Field(gt=0)] | None, _UNSET_IF_EMPTY]


class WorkerSettings(Settings):
    """What a worker process and the scheduler need to know; every variable is prefixed TRAINYARD_."""

    worker_name: Name = Field(default_factory=socket.gethostname)
    queues: list[QueueName] = Field(default=[DEFAULT_QUEUE], min_length=1)
    slots: int = Field(default=1, ge=1, le=256)
    lease_seconds: float = Field(default=30, gt=0)
    beat_seconds: float = Field(default=5, gt=0)
    outage_seconds: float = Field(default=600, gt=0)  # so long a job trains on while the database is away
    poll_seconds: float = Field(default=2, gt=0)
    sweep_seconds: float = Field(default=5, gt=0)
    point_seconds: float = Field(default=1, gt=0)  # how often the scheduler looks for points of sweeps to be tried
    retry_limit: int = Field(default=3, ge=0)
    # Whether a job of higher priority that has waited so long takes the slot of one of lower priority.
    preemption: bool = False
    preemption_wait_seconds: float = Field(default=60, ge=0)
    artifacts_dir: Path = Path(".trainyard/artifacts")
    datasets_dir: Path = Path(".trainyard/datasets")
    download_datasets: bool = True
    # A job's data beyond this many bytes are read batch by batch; unset: half of the free memory of its slot.
    data_limit_bytes: int | None = Field(default=None, ge=0)
    # The most memory that the processes of one job may have together, in GiB; unset: what the host has.
    runner_memory_gb: Gigabytes = None
    git_commit: str | None = None
    # Where Prometheus finds what this worker counts; unset: nowhere. It asks without a token: bind it with care.
    metrics_port: Port = None
    metrics_host: str = "127.0.0.1"
    # How long an ended job's files, and the job itself, are kept; unset: for ever.
    keep_artifacts_days: Days = None
    keep_jobs_days: Days = None
    # How long after its deletion a job's files and row go: who follows it has heard of its end by then.
    removal_seconds: float = Field(default=30, gt=0)
