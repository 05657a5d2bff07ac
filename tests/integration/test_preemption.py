"""Whom the scheduler asks to make room, decided from the rows of a real Postgres."""

from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session, sessionmaker

from harness.jobs import DIGITS_MLP, a_worker, add_job, claimed
from models.job import Job
from models.user import User
from worker.preemption import make_room


def submit(session: Session, user: UUID, priority: int, **changes: Any) -> Job:
    return add_job(session, DIGITS_MLP | {"resources": {"device": "cpu"}, "priority": priority} | changes, user=user)


def test_jobs_that_no_worker_could_run_do_not_keep_others_from_being_made_room_for(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as session:
        session.add(a_worker("w", lease_seconds=3_600))
        user = User(name="ada")
        session.add(user)
        session.flush()
        running = submit(session, user.id, 0).id
    claimed(sessions, worker="w", lease_seconds=3_600)
    with sessions.begin() as session:
        for _ in range(250):
            submit(session, user.id, 50, queue="nobodys")
            submit(session, user.id, 40, resources={"device": "cuda"})
        urgent = submit(session, user.id, 10).id
    with sessions.begin() as session:
        assert make_room(session, wait_seconds=0) == running
    with sessions() as session:
        assert session.get_one(Job, running).yields_to == urgent
