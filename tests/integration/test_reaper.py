"""The reaper of a process, on a real Postgres: who was out of touch itself takes nothing from anybody."""

import time
from uuid import UUID

import pytest
from sqlalchemy.orm import Session, sessionmaker

from harness.jobs import add_job, claimed, job_row
from worker.attempt import AttemptRecord
from worker.queue import Claim
from worker.reaper import Reaper
from worker.settings import WorkerSettings

LEASE_SECONDS = 1.0
RUN_OUT = 0.001  # seconds of a lease that nobody could renew in time


@pytest.fixture
def reaper(sessions: sessionmaker[Session]) -> Reaper:
    settings = WorkerSettings(environment="development", lease_seconds=LEASE_SECONDS, beat_seconds=LEASE_SECONDS / 4)
    return Reaper(sessions, settings, every_seconds=0.02)


def claimed_for(sessions: sessionmaker[Session], seconds: float) -> Claim:
    """Queue a job and let a worker claim it under a lease of so many seconds."""
    with sessions.begin() as session:
        add_job(session)
    return claimed(sessions, lease_seconds=seconds)


def swept(reaper: Reaper) -> list[UUID]:
    """Let the reaper sweep, as often as it does, until it takes something."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if taken := reaper.sweep():
            return taken
        time.sleep(0.02)
    raise AssertionError("nothing was taken")


def test_a_process_takes_a_lost_attempt_once_it_was_in_touch_for_a_lease(
    sessions: sessionmaker[Session], reaper: Reaper
) -> None:
    lost = claimed_for(sessions, RUN_OUT)
    began = time.monotonic()
    assert swept(reaper) == [lost.job_id]
    assert time.monotonic() - began >= LEASE_SECONDS
    job = job_row(sessions, lost.job_id)
    assert (job.status, job.reason, job.retries) == ("queued", "worker_lost", 1)


def test_who_was_out_of_touch_gives_every_worker_a_lease_to_report(
    sessions: sessionmaker[Session], reaper: Reaper
) -> None:
    claimed_for(sessions, RUN_OUT)
    swept(reaper)  # from now on it is in touch
    silent = claimed_for(sessions, RUN_OUT)  # the one of before, once more
    time.sleep(LEASE_SECONDS)  # an outage: neither its worker nor the reaper could reach the database
    assert reaper.sweep() == []
    AttemptRecord(sessions, silent).renew(60)
    lost = claimed_for(sessions, RUN_OUT)
    assert swept(reaper) == [lost.job_id]
    job = job_row(sessions, silent.job_id)
    assert (job.status, job.attempt) == ("running", 2)
