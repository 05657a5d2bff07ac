"""What tests that are API and worker themselves put into a real database: jobs, claims, epochs, workers."""

import threading
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from models.demand import GIB
from models.job import Job
from models.line import Offer
from models.result import EpochMetrics
from models.spec import JobSpec
from models.user import FIRST_ADMIN, User
from models.worker import Worker
from worker.forkserver import forkserver
from worker.messages import SavedCheckpoint
from worker.queue import Allocate, Claim, claim_next
from worker.settings import WorkerSettings
from worker.supervisor import Supervisor

DIGITS_MLP: dict[str, Any] = {"dataset": {"name": "digits"}, "network": {"name": "mlp"}}
ON_CPU = Offer(["default"], free_slots=1)
CHECKPOINT = SavedCheckpoint(attempt=1, epoch=1, file="checkpoint-0001-000001.pt", sha256="0" * 64)


def add_job(session: Session, spec: dict[str, Any] = DIGITS_MLP, *, user: UUID | None = None, **columns: Any) -> Job:
    """Queue a job of this user, or of the first admin, as the API does; then set these columns."""
    owner = user or session.scalars(select(User.id).where(User.name == FIRST_ADMIN)).one()
    job = Job.submit(JobSpec.model_validate(spec).resolved().as_json(), user_id=owner)
    for name, value in columns.items():
        setattr(job, name, value)
    session.add(job)
    session.flush()
    return job


def job_row(sessions: sessionmaker[Session], job_id: UUID) -> Job:
    """Return a job as it is stored."""
    with sessions() as session:
        return session.get_one(Job, job_id)


def a_worker(name: str, **facts: Any) -> Worker:
    """Return a worker of one slot on the CPU, heard of just now, which serves the default queue and is no process."""
    nothing: dict[str, Any] = {"version": "", "processor": "", "gpus": [], "load": {}}
    size: dict[str, Any] = {"slots": 1, "cores": 1, "memory_bytes": GIB, "lease_seconds": 30}
    return Worker(**{"name": name, "instance": name, "host": name, "queues": ["default"], **nothing, **size, **facts})


def first_gpus(offer: Offer) -> Allocate:
    """Return an allocator that gives out the first GPUs of those that are not to be spared."""
    return lambda demand, spared: tuple(uuid for uuid in offer.gpus if uuid not in spared)[: demand.gpus]


def claim(
    sessions: sessionmaker[Session],
    offer: Offer = ON_CPU,
    *,
    allocate: Allocate | None = None,
    worker: str = "a",
    lease_seconds: float = 30,
    ahead_seconds: float = 0.0,
) -> Claim | None:
    """Let a worker claim what is next for it, in a transaction of its own."""
    with sessions.begin() as session:
        return claim_next(
            session,
            worker=worker,
            offer=offer,
            allocate=allocate or first_gpus(offer),
            lease_seconds=lease_seconds,
            ahead_seconds=ahead_seconds,
        )


def claimed(sessions: sessionmaker[Session], offer: Offer = ON_CPU, **more: Any) -> Claim:
    """Claim what must be there to be claimed."""
    found = claim(sessions, offer, **more)
    assert found is not None, "nothing is there to be claimed"
    return found


def supervisor_of(
    claim: Claim, sessions: sessionmaker[Session], settings: WorkerSettings, *, gpu_bytes: int | None = None
) -> Supervisor:
    """Return the supervisor of this attempt, whose runner has one thread."""
    return Supervisor(
        claim,
        sessions=sessions,
        settings=settings,
        context=forkserver(),
        threads=1,
        gpu_bytes=gpu_bytes,
        stopping=threading.Event(),
    )


def trained(epoch: int = 1, **figures: float) -> EpochMetrics:
    """Return what an epoch measured, with these figures."""
    usual: dict[str, Any] = {
        "train_loss": 2.0,
        "train_accuracy": 0.25,
        "validation_loss": 1.5,
        "validation_accuracy": 0.5,
        "learning_rate": 0.01,
        "penalty": 0.0,
        "seconds": 1.0,
        "train_seconds": 0.75,
    }
    return EpochMetrics(epoch=epoch, **usual | figures)
