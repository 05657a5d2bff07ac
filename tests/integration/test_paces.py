"""Estimates from measured jobs: what a success leaves behind, and what new and waiting jobs make of it."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session, sessionmaker

from harness.jobs import DIGITS_MLP, a_worker, add_job
from models.demand import GIB
from models.job import Job, Status
from models.pace import GpuUse, Pace, measured_seconds, record_pace, refresh_estimates
from models.records import Attempt, Epoch
from models.worker import Worker
from worker.sweeps.tick import advance_sweeps

NOBODYS = "nobodys"  # a queue that no worker serves
MIB = 2**20


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    """One slot, and no scheduler: sweeps advance when a test lets them."""
    service = start_service(slots=1)
    service.stack.kill_child("scheduler")
    return service


@pytest.fixture
def sessions(service: Any) -> Iterator[sessionmaker[Session]]:
    yield service.sessions
    with service.sessions.begin() as session:
        session.execute(delete(Job))
        session.execute(delete(Pace))


def waiting(epochs: int, **changes: Any) -> dict[str, Any]:
    return DIGITS_MLP | {"queue": NOBODYS, "training": {"epochs": epochs}} | changes


def trained(service: Any, **training: Any) -> str:
    job_id: str = service.submit(DIGITS_MLP | {"training": training})
    assert service.wait_for_end(job_id)["status"] == "succeeded", service.http.get(f"/jobs/{job_id}/logs").text
    return job_id


def add(session: Session, spec: dict[str, Any]) -> Job:
    job = add_job(session, spec)
    session.execute(refresh_estimates([job.id]))
    session.refresh(job)
    return job


def measure(session: Session, job: Job, epoch: float, other: float, device: str = "cpu", **more: Any) -> None:
    record_pace(session, job, device=device, epoch_seconds=epoch, other_seconds=other, gpu=more.get("gpu"))


def estimates(sessions: sessionmaker[Session], *ids: str | UUID) -> list[float | None]:
    with sessions() as session:
        return [session.get_one(Job, UUID(str(job_id))).estimated_seconds for job_id in ids]


def test_a_job_has_no_estimate_until_one_like_it_has_succeeded(service: Any, sessions: sessionmaker[Session]) -> None:
    before = service.submit(waiting(10))
    unlike = service.submit(waiting(10, network={"name": "mlp", "hidden": [7]}))
    assert estimates(sessions, before, unlike) == [None, None]
    measured = trained(service, epochs=3)
    with sessions() as session:
        pace = session.scalars(select(Pace)).one()
        seconds = session.scalars(select(Epoch.seconds).where(Epoch.job_id == UUID(measured))).all()
    assert (pace.device, pace.jobs, pace.gpu_memory_bytes) == ("cpu", 1, None)
    assert pace.epoch_seconds == pytest.approx(sum(seconds) / 3)
    assert pace.other_seconds > 0
    batch = service.http.post("/jobs:batch", json={"jobs": [waiting(20), waiting(30)]}).json()
    after = [service.submit(waiting(40)), *(item["job"]["id"] for item in batch["items"])]
    expected = [pace.other_seconds + epochs * pace.epoch_seconds for epochs in (10, 40, 20, 30)]
    assert estimates(sessions, before, *after) == pytest.approx(expected)
    assert estimates(sessions, unlike) == [None]


def test_the_points_of_a_sweep_have_estimates(service: Any, sessions: sessionmaker[Session]) -> None:
    trained(service, epochs=1)
    sweep = {
        "spec": waiting(5),
        "parameters": {"kind": "list", "points": [{"training.optimizer.learning_rate": rate} for rate in (0.1, 0.2)]},
        "objective": "validation_accuracy",
    }
    answer = service.http.post("/sweeps", json=sweep)
    assert answer.status_code == 201, answer.text
    assert advance_sweeps(sessions, max_queued=100) == {NOBODYS}
    with sessions() as session:
        pace = session.scalars(select(Pace)).one()
        points = session.scalars(select(Job.estimated_seconds).where(Job.sweep_id.is_not(None))).all()
    assert points == pytest.approx([pace.other_seconds + 5 * pace.epoch_seconds] * 2)


@pytest.mark.parametrize("ending", ["failed", "cancelled"])
def test_a_job_that_does_not_succeed_leaves_no_pace(service: Any, sessions: sessionmaker[Session], ending: str) -> None:
    spec = DIGITS_MLP | {"training": {"epochs": 100_000}}
    if ending == "failed":
        spec |= {"resources": {"time_limit_seconds": 5}}
    job_id = service.submit(spec)
    service.wait_for_epoch(job_id, 1)
    if ending == "cancelled":
        service.http.post(f"/jobs/{job_id}/cancel")
    assert service.wait_for_end(job_id)["status"] == ending
    with sessions() as session:
        assert session.scalars(select(Pace)).all() == []


def test_each_measured_job_counts_as_much_as_all_before_it(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        job = add(session, waiting(10))
        for epoch, other in ((4.0, 8.0), (2.0, 4.0), (1.0, 2.0)):
            measure(session, job, epoch, other)
        pace = session.scalars(select(Pace)).one()
        assert (pace.epoch_seconds, pace.other_seconds, pace.jobs) == (2.0, 4.0, 3)
    assert estimates(sessions, job.id) == [24.0]


def test_an_estimate_that_is_hardly_off_is_left_alone(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        job = add(session, waiting(10))
        measure(session, job, 1.0, 0.0)
        measure(session, job, 1.04, 0.0)
    assert estimates(sessions, job.id) == [10.0]
    with sessions.begin() as session:
        measure(session, job, 1.2, 0.0)
    assert estimates(sessions, job.id) == pytest.approx([11.1])


def test_the_estimate_is_of_the_slowest_device_that_the_job_may_run_on(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        jobs = {device: add(session, waiting(10, resources={"device": device})) for device in ("cpu", "cuda", "auto")}
        measure(session, jobs["cuda"], 1.0, 5.0, "Fast GPU")
        assert estimates_in(session, jobs) == {"cpu": None, "cuda": 15.0, "auto": 15.0}
        measure(session, jobs["cuda"], 2.0, 1.0, "Slow GPU")
        measure(session, jobs["cuda"], 30.0, 0.0, "cpu")
        assert estimates_in(session, jobs) == {"cpu": 300.0, "cuda": 21.0, "auto": 300.0}


def estimates_in(session: Session, jobs: dict[str, Job]) -> dict[str, float | None]:
    for job in jobs.values():
        session.refresh(job)
    return {name: job.estimated_seconds for name, job in jobs.items()}


def test_a_job_that_asks_for_auto_memory_is_given_the_measured_peak_with_a_margin(
    sessions: sessionmaker[Session],
) -> None:
    def gpu(memory: float | str) -> dict[str, Any]:
        return waiting(10, resources={"device": "cuda", "gpu_memory_gb": memory})

    with sessions.begin() as session:
        first, fixed = add(session, gpu("auto")), add(session, gpu(3.0))
        on_cpu = add(session, waiting(10, resources={"device": "cpu"}))
        assert first.gpu_memory_bytes is None
        measure(session, first, 1.0, 1.0, "GPU", gpu=GpuUse(peak_bytes=10 * GIB, all_bytes=24 * GIB))
        jobs = [first, fixed, on_cpu, add(session, gpu("auto"))]
        for job in jobs:
            session.refresh(job)
    assert [job.gpu_memory_bytes for job in jobs] == [12 * GIB + GIB // 2, 3 * GIB, None, 12 * GIB + GIB // 2]


@pytest.mark.parametrize(
    ("peaks_in_gib", "given"),
    [
        ([1.0], 1741 * MIB),  # 1,024 x 1.2 + 512 = 1,740.8 MiB
        ([22.0], 24 * GIB),  # no more than there is: it has run there
        ([1.0, 10.0], 12 * GIB + GIB // 2),  # up at once
        ([10.0, 1.0], (12_800 * MIB + 1_741 * MIB) // 2),  # down by halves
    ],
)
def test_the_memory_given_goes_up_at_once_and_down_by_halves(
    sessions: sessionmaker[Session], peaks_in_gib: list[float], given: int
) -> None:
    with sessions.begin() as session:
        job = add(session, waiting(10, resources={"device": "cuda"}))
        for peak in peaks_in_gib:
            measure(session, job, 1.0, 1.0, "GPU", gpu=GpuUse(round(peak * GIB), 24 * GIB))
        session.refresh(job)
        assert job.gpu_memory_bytes == given


def test_a_success_without_a_measured_peak_keeps_the_memory_that_is_known(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        job = add(session, waiting(10, resources={"device": "cuda"}))
        measure(session, job, 1.0, 1.0, "GPU", gpu=GpuUse(GIB, 24 * GIB))
        measure(session, job, 1.0, 1.0, "GPU")
        assert session.scalars(select(Pace.gpu_memory_bytes)).one() == 1741 * MIB


def test_a_job_on_its_second_attempt_is_measured_by_all_epochs_and_the_rest_of_this_attempt(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as session:
        job = add(session, waiting(4))
        measure(session, job, 1.0, 6.0)
    with sessions.begin() as session:
        job = session.get_one(Job, job.id)
        begin_attempt(job)
        session.add_all([epoch(job, number, seconds=2.0) for number in (1, 2, 3)])
        job.move(Status.QUEUED)
        session.flush()
        session.execute(refresh_estimates([job.id]))
    assert estimates(sessions, job.id) == [7.0], "one epoch of four is left"
    with sessions.begin() as session:
        job = session.get_one(Job, job.id)
        assert measured_seconds(session, add(session, waiting(4))) is None
        begin_attempt(job)
        session.add(epoch(job, 4, seconds=0.0))
        session.flush()
        session.execute(update(Attempt).values(started_at=func.now() - timedelta(seconds=100)))
        measured = measured_seconds(session, job)
    assert measured is not None
    assert measured[0] == 1.5
    assert measured[1] >= 100, "what the attempt ran besides its own epoch"


def test_a_job_for_any_device_is_estimated_by_the_devices_of_the_workers_that_serve_its_queue(
    sessions: sessionmaker[Session],
) -> None:
    slow, fast, other = (waiting(10, queue=queue) for queue in ("slow", "fast", "other"))
    with sessions.begin() as session:
        for device, seconds in (("cpu", 100.0), ("H200", 1.0), ("T4", 10.0)):
            measure(session, add(session, waiting(10)), seconds, 0.0, device)
        session.add_all([worker("gpu-host", "fast", "H200"), worker("cpu-host", "slow")])
    with sessions.begin() as session:
        found = [add(session, spec).estimated_seconds for spec in (slow, fast, other)]
        on_gpu = add(session, fast | {"resources": {"device": "cuda"}}).estimated_seconds
        session.execute(delete(Worker))
    assert found == [1_000.0, 10.0, 1_000.0], "without a worker it is the slowest that was ever measured"
    assert on_gpu == 10.0


def worker(name: str, queue: str, *gpus: str) -> Worker:
    found = [{"uuid": f"{name}-{gpu}", "name": gpu, "memory_bytes": GIB} for gpu in gpus]
    return a_worker(name, queues=[queue], gpus=found)


def begin_attempt(job: Job) -> None:
    job.attempt += 1
    job.move(Status.RUNNING)
    job.attempts.add(Attempt(number=job.attempt, worker="a"))


def epoch(job: Job, number: int, seconds: float) -> Epoch:
    return Epoch(job_id=job.id, epoch=number, attempt=job.attempt, train_loss=1.0, learning_rate=0.1, penalty=0.0,
                 seconds=seconds)  # fmt: skip
