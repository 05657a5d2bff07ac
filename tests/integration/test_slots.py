"""The slots of a worker, with a real Postgres, real runners and pretended GPUs: the jobs train on the CPU."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session, sessionmaker

from harness.jobs import DIGITS_MLP, add_job, claimed, job_row, supervisor_of
from models.demand import GIB
from models.forecast import Place
from models.job import Job, Status
from models.records import Attempt, Transition
from worker import slots
from worker.allocation import allocate, offer_of
from worker.forkserver import WarmForkserver, forkserver
from worker.gpus import Gpu
from worker.host import this_host
from worker.messages import Failed
from worker.queue import Claim
from worker.registration import Registration
from worker.retention import ARTIFACTS_MARK
from worker.runner_process import START
from worker.settings import WorkerSettings
from worker.slots import Slots
from worker.supervisor import Supervisor

CORES = 5
GPUS = [
    Gpu(uuid=f"GPU-pretended-{letter}", name="Pretended", capability=(9, 0), memory_bytes=16 * GIB) for letter in "ab"
]
FOR_EVER = 100_000  # epochs, of some milliseconds


@pytest.fixture
def settings(tmp_path: Path, digits_cache: Path, monkeypatch: pytest.MonkeyPatch) -> WorkerSettings:
    monkeypatch.setattr(slots, "usable_cores", lambda: CORES)
    (tmp_path / ARTIFACTS_MARK).touch()
    return WorkerSettings(
        environment="development",
        worker_name="pretender",
        slots=CORES,
        poll_seconds=60,  # what starts was woken: by a submission, or by the end of another job
        artifacts_dir=tmp_path,
        datasets_dir=digits_cache,
    )


@pytest.fixture
def worker(sessions: sessionmaker[Session], settings: WorkerSettings, engine: Engine) -> Iterator["PretendedWorker"]:
    with running_worker(sessions, settings, engine) as worker:
        yield worker


class PretendedWorker:
    """A worker whose GPUs are pretended, and the jobs that are submitted to it."""

    def __init__(self, sessions: sessionmaker[Session], slots: Slots) -> None:
        self.sessions = sessions
        self.slots = slots

    def submit(self, epochs: int = FOR_EVER, **resources: Any) -> UUID:
        job_id = submit(self.sessions, epochs, **resources)
        self.slots.wake()
        return job_id

    def reaches(self, job_id: UUID, status: Status) -> list[str]:
        """Return the GPUs of the job's last attempt once it has this status."""
        deadline = time.monotonic() + 60
        while (job := job_row(self.sessions, job_id)).status != status:
            assert time.monotonic() < deadline, f"the job is {job.status}: {job.message}"
            time.sleep(0.02)
        with self.sessions() as session:
            return session.scalars(
                select(Attempt.gpus).where(Attempt.job_id == job_id, Attempt.number == job.attempt)
            ).one()

    def cancel(self, job_id: UUID) -> None:
        with self.sessions.begin() as session:
            session.get_one(Job, job_id, with_for_update=True).cancel()
        self.reaches(job_id, Status.CANCELLED)


@contextmanager
def running_worker(
    sessions: sessionmaker[Session], settings: WorkerSettings, engine: Engine
) -> Iterator[PretendedWorker]:
    WarmForkserver(forkserver()).make_ready()  # the import of torch is not what a test waits for
    registration = Registration(sessions, settings, this_host(GPUS, None))
    registration.start()
    slots = Slots(settings, engine, GPUS, registration)
    slots.start()
    try:
        yield PretendedWorker(sessions, slots)
    finally:
        slots.stop()
        registration.stop()


def submit(sessions: sessionmaker[Session], epochs: int = 1, **resources: Any) -> UUID:
    with sessions.begin() as session:
        return add_job(session, DIGITS_MLP | {"training": {"epochs": epochs}, "resources": resources}).id


def test_jobs_share_a_gpu_by_memory_and_one_that_is_exclusive_waits_for_an_idle_one(worker: PretendedWorker) -> None:
    small, large = worker.submit(gpu_memory_gb=5), worker.submit(gpu_memory_gb=11)
    shared = worker.reaches(small, Status.RUNNING)
    assert worker.reaches(large, Status.RUNNING) == shared, "16 GiB hold 5 and 11"
    third = worker.submit(gpu_memory_gb=5)
    other = worker.reaches(third, Status.RUNNING)
    assert sorted([*shared, *other]) == [gpu.uuid for gpu in GPUS]

    alone = worker.submit(exclusive=True)
    assert worker.reaches(worker.submit(epochs=1, device="cpu"), Status.SUCCEEDED) == []
    assert job_row(worker.sessions, alone).status == Status.QUEUED, "one of the CPU went by, and no GPU is idle"

    worker.cancel(third)
    assert worker.reaches(alone, Status.RUNNING) == other
    worker.cancel(small)
    assert worker.reaches(worker.submit(gpu_memory_gb=5), Status.RUNNING) == shared, "not beside the exclusive one"


def test_what_runs_when_the_worker_stops_goes_back_to_the_queue_and_frees_its_gpus(
    sessions: sessionmaker[Session], settings: WorkerSettings, engine: Engine
) -> None:
    with running_worker(sessions, settings, engine) as worker:
        job_id = worker.submit(gpus=1)
        worker.reaches(job_id, Status.RUNNING)
    assert job_row(sessions, job_id).status == Status.QUEUED
    with running_worker(sessions, settings, engine) as worker:
        worker.reaches(job_id, Status.RUNNING)
        assert job_row(sessions, job_id).attempt == 2
        worker.cancel(job_id)


def test_a_worker_that_may_take_no_jobs_claims_none(
    sessions: sessionmaker[Session], settings: WorkerSettings, engine: Engine
) -> None:
    job_id = submit(sessions)
    registration = Registration(sessions, settings, this_host(GPUS, None))
    slots = Slots(settings, engine, GPUS, registration)
    assert registration.draining
    assert slots._claim() is None
    assert job_row(sessions, job_id).attempt == 0
    registration.start()
    try:
        claim = slots._claim()
    finally:
        registration.stop()
    assert claim is not None
    assert claim.job_id == job_id


def test_a_worker_whose_runners_cannot_start_yet_tries_again(
    sessions: sessionmaker[Session], settings: WorkerSettings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter([EOFError(), OSError("too long a path"), RuntimeError("no thread is to be had")])

    class Late(WarmForkserver):
        def make_ready(self) -> bool:
            for failure in failures:
                raise failure
            return super().make_ready()

    monkeypatch.setattr(slots, "WarmForkserver", Late)
    often = settings.model_copy(update={"poll_seconds": 0.1})
    with running_worker(sessions, often, engine) as worker:
        worker.reaches(worker.submit(epochs=1), Status.SUCCEEDED)


def test_a_worker_that_has_lost_its_artifacts_takes_no_job_until_they_are_back(
    sessions: sessionmaker[Session], settings: WorkerSettings, engine: Engine, tmp_path: Path
) -> None:
    directory = tmp_path / "mounted"
    often = settings.model_copy(update={"poll_seconds": 0.1, "artifacts_dir": directory})
    registration = Registration(sessions, often, this_host(GPUS, None))
    registration.start()
    job_id = submit(sessions)
    try:
        assert Slots(often, engine, GPUS, registration)._claim() is None
    finally:
        registration.stop()
    assert job_row(sessions, job_id).attempt == 0
    directory.mkdir()
    assert Slots(often, engine, GPUS, registration)._claim() is None, "nothing is mounted there"
    assert job_row(sessions, job_id).attempt == 0
    (directory / ARTIFACTS_MARK).touch()
    with running_worker(sessions, often, engine) as worker:
        worker.reaches(job_id, Status.SUCCEEDED)


class EndedRunner:
    """A runner that has said how it ended, and is gone."""

    exit_code = 0
    overrun = None

    def __init__(self, outcome: Failed | None, killed_for: str | None = None) -> None:
        self._said = [] if outcome is None else [outcome]
        self.killed_for = killed_for

    def set_deadline(self, purpose: str, moment: float) -> None:
        pass

    def set_lease_end(self, moment: float, seconds: float) -> None:
        pass

    def wait(self, seconds: float) -> bool:
        return True

    def take_events(self) -> list[Failed]:
        said, self._said = self._said, []
        return said

    def take_output(self) -> str:
        return ""

    def end(self) -> None:
        pass


NO_GPU_MEMORY = Failed(reason="out_of_memory", message="CUDA out of memory.", cuda=True)
NO_HOST_MEMORY = Failed(reason="out_of_memory", message="can't allocate memory")

Attempts = Callable[..., Claim]


@pytest.fixture
def attempt(sessions: sessionmaker[Session], settings: WorkerSettings) -> Attempts:
    """Claim the next job for a worker that runs nothing, and let its runner end so."""

    def attempt(outcome: Failed | None, killed_for: str | None = None) -> Claim:
        place = Place("a", settings.queues, has_gpus=True, slots=1, gpus={"GPU-a": 16 * GIB}, running=[])
        claim = claimed(sessions, offer_of(place), allocate=partial(allocate, place))
        supervisor = supervisor_of(claim, sessions, settings, gpu_bytes=16 * GIB)
        runner: Any = EndedRunner(outcome, killed_for)
        supervisor._see_through(runner, claimed_at=time.monotonic())
        return claim

    return attempt


def history(sessions: sessionmaker[Session], job_id: UUID) -> list[tuple[str, str | None]]:
    with sessions() as session:
        moves = session.execute(
            select(Transition.to_status, Transition.reason).where(Transition.job_id == job_id).order_by(Transition.id)
        )
        return [(status, reason) for status, reason in moves]


def test_a_job_whose_shared_gpu_has_no_more_memory_is_tried_once_more_with_one_of_its_own(
    sessions: sessionmaker[Session], attempt: Attempts
) -> None:
    job_id = submit(sessions, gpu_memory_gb=4)
    assert not attempt(NO_GPU_MEMORY).demand.takes_whole_gpus
    job = job_row(sessions, job_id)
    assert (job.status, job.reason) == (Status.QUEUED, "out_of_memory")
    assert (job.exclusive, job.gpu_memory_bytes, job.retries) == (True, 4 * GIB, 0)

    assert attempt(NO_GPU_MEMORY).demand.takes_whole_gpus
    assert history(sessions, job_id) == [
        ("queued", None),
        ("running", None),
        ("queued", "out_of_memory"),
        ("running", None),
        ("failed", "out_of_memory"),
    ]
    with sessions() as session:
        attempts = session.scalars(select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.number)).all()
    assert [one.outcome for one in attempts] == ["out_of_memory", "out_of_memory"]
    assert all(one.ended_at is not None for one in attempts)


def test_a_runner_that_was_not_there_in_time_is_told_as_that(
    sessions: sessionmaker[Session], attempt: Attempts
) -> None:
    job_id = submit(sessions)
    attempt(None, killed_for=START)
    job = job_row(sessions, job_id)
    assert (job.status, job.reason, job.retries) == (Status.QUEUED, "runner_died", 1)
    assert job.message is not None
    assert job.message.startswith("The runner did not start within 180 seconds.")


@pytest.mark.parametrize(
    ("outcome", "resources"),
    [
        (NO_HOST_MEMORY, {"gpu_memory_gb": 4}),  # the GPU would be its own, and the host no larger
        (NO_GPU_MEMORY, {"gpu_memory_gb": 4, "exclusive": True}),
        (NO_GPU_MEMORY, {"gpu_memory_gb": "auto"}),
        (NO_GPU_MEMORY, {"gpu_memory_gb": 16}),  # all there is: nobody was beside it
    ],
)
def test_a_job_that_would_have_no_more_memory_alone_fails_at_once(
    outcome: Failed, resources: dict[str, Any], sessions: sessionmaker[Session], attempt: Attempts
) -> None:
    job_id = submit(sessions, **resources)
    attempt(outcome)
    job = job_row(sessions, job_id)
    assert (job.status, job.reason) == (Status.FAILED, "out_of_memory")
    assert job.exclusive == resources.get("exclusive", False)


@pytest.mark.parametrize(
    ("ask", "status", "exclusive"), [(Job.cancel, Status.CANCELLED, False), (Job.pause, Status.PAUSED, True)]
)
def test_a_cancel_or_pause_that_was_asked_for_comes_before_another_try(
    ask: Callable[[Job], object],
    status: Status,
    exclusive: bool,
    sessions: sessionmaker[Session],
    attempt: Attempts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job_id = submit(sessions, gpu_memory_gb=4)
    follow = Supervisor._follow

    def asked_meanwhile(supervisor: Supervisor, runner: Any) -> None:
        follow(supervisor, runner)
        with sessions.begin() as session:
            ask(session.get_one(Job, job_id, with_for_update=True))

    monkeypatch.setattr(Supervisor, "_follow", asked_meanwhile)
    attempt(NO_GPU_MEMORY)
    job = job_row(sessions, job_id)
    assert (job.status, job.exclusive) == (status, exclusive)
