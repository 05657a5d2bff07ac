"""The worker's settings, from the environment."""

import socket
from pathlib import Path

from pydantic import Field

from models.settings import Settings
from models.spec import DEFAULT_QUEUE
from models.validation import Name, QueueName


class WorkerSettings(Settings):
    """What a worker process and the scheduler need to know; every variable is prefixed TRAINYARD_."""

    worker_name: Name = Field(default_factory=socket.gethostname)
    queues: list[QueueName] = Field(default=[DEFAULT_QUEUE], min_length=1)
    slots: int = Field(default=1, ge=1, le=256)
    lease_seconds: float = Field(default=30, gt=0)
    beat_seconds: float = Field(default=5, gt=0)
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
    git_commit: str | None = None
