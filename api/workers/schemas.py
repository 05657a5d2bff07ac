"""What is shown of a worker and of what it runs."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel

from models.worker import Worker, WorkerState


class GpuView(BaseModel):
    """A GPU of the worker's host; what its driver does not say is null."""

    uuid: str
    name: str
    memory_bytes: int
    memory_used_bytes: int | None
    utilisation_percent: int | None
    temperature_celsius: int | None


class WorkerView(BaseModel):
    """A worker; use of processor, memory and GPUs is that of its whole host, as of the last heartbeat.

    `running` counts its jobs, also those that the caller may not read. `memory_bytes` is what it may have of the host.
    """

    id: UUID
    name: str
    state: WorkerState
    host: str
    version: str
    queues: list[str]
    slots: int
    running: int
    processor: str
    cores: int
    cpu_percent: float
    memory_bytes: int
    memory_used_bytes: int
    gpus: list[GpuView]
    started_at: datetime
    heartbeat_at: datetime
    stopped_at: datetime | None
    draining_since: datetime | None

    @classmethod
    def of(cls, worker: Worker, state: str, running: int) -> "WorkerView":
        """Show a worker in this state that runs so many jobs."""
        gpus = {gpu["uuid"]: gpu for gpu in worker.load["gpus"]}
        return cls(
            id=worker.id,
            name=worker.name,
            state=WorkerState(state),
            host=worker.host,
            version=worker.version,
            queues=worker.queues,
            slots=worker.slots,
            running=running,
            processor=worker.processor,
            cores=worker.cores,
            cpu_percent=worker.load["cpu_percent"],
            memory_bytes=worker.memory_bytes,
            memory_used_bytes=worker.load["memory_used_bytes"],
            gpus=[GpuView(**gpu | gpus[gpu["uuid"]]) for gpu in worker.gpus],
            started_at=worker.started_at,
            heartbeat_at=worker.heartbeat_at,
            stopped_at=worker.stopped_at,
            draining_since=worker.draining_since,
        )


class RunningJob(BaseModel):
    """A job that runs on the worker; `gpus` are the UUIDs of those it has, none for a job of the CPU."""

    id: UUID
    name: str | None
    user: str
    status: str
    attempt: int
    gpus: list[str]
    epoch: int
    epochs: int
    started_at: datetime


class WorkerDetail(WorkerView):
    """A worker and those of its running jobs that the caller may read, oldest first."""

    jobs: list[RunningJob]


class WorkerPage(BaseModel):
    """Workers by name; `next` is the `after` of the following page, null at the end."""

    items: list[WorkerView]
    next: str | None
