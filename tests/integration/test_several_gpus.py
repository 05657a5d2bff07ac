"""A job of several GPUs under its supervisor, on a real Postgres: the GPUs are pretended, its ranks are on the CPU."""

import threading
import time
from pathlib import Path
from uuid import UUID

import psutil
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, sessionmaker

from harness.jobs import DIGITS_MLP, add_job, claimed, supervisor_of
from models.demand import GIB
from models.job import Job, Status
from models.line import Offer
from models.records import Attempt, Epoch, JobResult
from worker.forkserver import WarmForkserver, forkserver
from worker.settings import WorkerSettings

GPUS = {"GPU-a": GIB, "GPU-b": GIB}
OFFER = Offer(["default"], free_slots=1, has_gpus=True, idle_gpu_bytes=[GIB, GIB], shared_gpu_bytes=GIB, gpus=GPUS)
TRAINING = {"epochs": 200, "batch_size": 16}


@pytest.fixture
def settings(tmp_path: Path, digits_cache: Path) -> WorkerSettings:
    return WorkerSettings(environment="development", artifacts_dir=tmp_path, datasets_dir=digits_cache)


def start_attempt(sessions: sessionmaker[Session], settings: WorkerSettings) -> threading.Thread:
    """Claim the job for both GPUs, and supervise it in a thread."""
    claim = claimed(sessions, OFFER, lease_seconds=60)
    assert claim.gpus == tuple(GPUS)
    supervisor = supervisor_of(claim, sessions, settings, gpu_bytes=GIB)
    thread = threading.Thread(target=supervisor.run, daemon=True)
    thread.start()
    return thread


def epochs(sessions: sessionmaker[Session], job_id: UUID) -> int:
    with sessions() as session:
        return session.scalar(select(func.count()).select_from(Epoch).where(Epoch.job_id == job_id)) or 0


def other_rank() -> psutil.Process:
    """Find the process of the second GPU: the only child of the runner, which is the forkserver's."""
    for child in psutil.Process().children():
        for runner in child.children():
            for rank in runner.children():
                return rank
    raise AssertionError("no second rank runs")


def test_a_job_one_of_whose_ranks_died_goes_on_from_its_checkpoint(
    sessions: sessionmaker[Session], settings: WorkerSettings
) -> None:
    WarmForkserver(forkserver()).make_ready()  # or the lease would begin while torch is imported
    with sessions.begin() as session:
        job_id = add_job(session, DIGITS_MLP | {"training": TRAINING, "resources": {"gpus": 2}}).id
    first = start_attempt(sessions, settings)
    deadline = time.monotonic() + 120
    while epochs(sessions, job_id) < 1:
        assert time.monotonic() < deadline, "no epoch was recorded"
        time.sleep(0.01)
    rank = other_rank()
    rank.kill()
    first.join(60)
    assert not first.is_alive()
    assert not rank.is_running()
    with sessions() as session:
        job = session.get_one(Job, job_id)
        assert (job.status, job.reason) == (Status.QUEUED, "runner_died")
        assert job.message is not None
        assert "one of the job's GPUs died" in job.message
        assert session.scalars(select(Attempt.outcome).where(Attempt.job_id == job_id)).all() == ["runner_died"]
    done = epochs(sessions, job_id)
    shorten(sessions, job_id, done + 2)

    second = start_attempt(sessions, settings)
    second.join(60)
    assert not second.is_alive()
    with sessions() as session:
        assert session.get_one(Job, job_id).status == Status.SUCCEEDED
        trained_by = session.execute(select(Epoch.epoch, Epoch.attempt).where(Epoch.job_id == job_id)).all()
        assert sorted(map(tuple, trained_by)) == [(epoch, 1 if epoch <= done else 2) for epoch in range(1, done + 3)]
        assert session.get_one(JobResult, job_id).body["seed"] == job.spec["training"]["seed"]


def shorten(sessions: sessionmaker[Session], job_id: UUID, last_epoch: int) -> None:
    """Let the job end after this epoch, so that nobody waits for what is not tested."""
    with sessions.begin() as session:
        spec = session.get_one(Job, job_id).spec
        shorter = spec | {"training": spec["training"] | {"epochs": last_epoch}}
        session.execute(update(Job).where(Job.id == job_id).values(spec=shorter))
