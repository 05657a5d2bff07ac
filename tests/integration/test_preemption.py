"""Whom the scheduler asks to make room, decided from the rows of a real Postgres."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import create_engine, delete
from sqlalchemy.orm import Session, sessionmaker

from models.database import sync_sessions
from models.job import Job
from models.line import Offer
from models.spec import JobSpec
from models.user import User
from models.worker import Worker
from worker.preemption import make_room
from worker.queue import claim_next

SPEC: dict[str, Any] = {"dataset": {"name": "digits"}, "network": {"name": "mlp"}, "resources": {"device": "cpu"}}


@pytest.fixture
def sessions(start_service: Any) -> Iterator[sessionmaker[Session]]:
    """A migrated database with one worker of one slot, which serves the default queue and is no process."""
    service = start_service(workers=0)
    service.stack.kill_child("scheduler")
    engine = create_engine(service.stack.database_url)
    sessions = sync_sessions(engine)
    with sessions.begin() as session:
        session.add(
            Worker(name="w", instance="w", host="w", version="", queues=["default"], slots=1, cores=1, processor="",
                   memory_bytes=1, gpus=[], load={}, lease_seconds=3_600)
        )  # fmt: skip
    yield sessions
    with sessions.begin() as session:
        session.execute(delete(Job))
    engine.dispose()


def submit(session: Session, user: UUID, priority: int, **changes: Any) -> Job:
    spec = JobSpec.model_validate(SPEC | {"priority": priority} | changes).resolved().as_json()
    job = Job.submit(spec, user_id=user)
    session.add(job)
    session.flush()
    return job


def test_jobs_that_no_worker_could_run_do_not_keep_others_from_being_made_room_for(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as session:
        user = User(name="ada")
        session.add(user)
        session.flush()
        running = submit(session, user.id, 0).id
        offer = Offer(["default"], free_slots=1)
        assert claim_next(session, worker="w", offer=offer, allocate=lambda _, __: (), lease_seconds=3_600) is not None
    with sessions.begin() as session:
        for _ in range(250):
            submit(session, user.id, 50, queue="nobodys")
            submit(session, user.id, 40, resources={"device": "cuda"})
        urgent = submit(session, user.id, 10).id
    with sessions.begin() as session:
        assert make_room(session, wait_seconds=0) == running
    with sessions() as session:
        assert session.get_one(Job, running).yields_to == urgent
