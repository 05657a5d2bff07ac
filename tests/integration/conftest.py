"""What these tests share: a database of their own, all that is stored, users, and webhooks with their receivers."""

import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, delete
from sqlalchemy.orm import Session, sessionmaker

from harness.service import Service
from harness.webhooks import Answer, Hook, Receiver, status
from models.database import sync_sessions
from models.job import Job
from models.named_queue import NamedQueue
from models.pace import Pace
from models.share import Share
from models.user import FIRST_ADMIN, User
from models.worker import Worker
from worker import scheduler


@pytest.fixture(scope="module")
def own_database(start_service: Callable[..., Service]) -> Service:
    """A migrated database that nothing else uses: neither a worker runs nor the scheduler."""
    service = start_service(workers=0)
    service.stack.kill_child("scheduler")
    return service


@pytest.fixture(scope="module")
def engine(own_database: Service) -> Engine:
    """A worker's engine on that database."""
    return own_database.engine


@pytest.fixture
def sessions(engine: Engine) -> Iterator[sessionmaker[Session]]:
    """Transactions on that database; what a test leaves in the queue is removed, and the users whom it made."""
    sessions = sync_sessions(engine)
    yield sessions
    with sessions.begin() as session:
        for table in (Job, Pace, Share, NamedQueue, Worker):
            session.execute(delete(table))
        session.execute(delete(User).where(User.name != FIRST_ADMIN))


@pytest.fixture
def tidy() -> Callable[[Any], None]:
    """How what is past its time is deleted; the scheduler does so every minute."""

    def run(service: Service) -> None:
        with service.sessions.begin() as session:
            scheduler.tidy(session)

    return run


@pytest.fixture
def member(service: Any) -> Any:
    """The client of a new member, whom nothing concerns that others do."""
    return service.client(service.new_user(f"member-{uuid4().hex[:8]}"))


@pytest.fixture
def hook_to(member: Any) -> Callable[..., Hook]:
    """How a webhook of the member's is made."""
    return partial(Hook, member)


@pytest.fixture
def tries() -> Callable[[dict[str, Any]], list[int | None]]:
    """What a delivery's tries were answered with."""
    return lambda delivery: [attempt["status_code"] for attempt in delivery["attempts"]]


@pytest.fixture(scope="module")
def fast_webhooks() -> dict[str, Any]:
    """Settings of a service that may send to this machine, and gives up after three tries within seconds."""
    return {
        "webhook_hosts": "127.0.0.1,localhost",
        "webhook_private_addresses": True,
        "webhook_tries": 3,
        "webhook_retry_seconds": 0.05,
        "webhook_timeout_seconds": 5,
        "webhook_lease_seconds": 8,
    }


@pytest.fixture
def api_with(service: Any) -> Callable[..., AbstractContextManager[None]]:
    """How the service's API is run with other environment variables for a while."""

    @contextmanager
    def changed(**environment: str) -> Iterator[None]:
        before = dict(service.stack._overrides)
        service.stack._overrides |= environment
        _restart_api(service)
        yield
        service.stack._overrides = before
        _restart_api(service)

    return changed


def _restart_api(service: Any) -> None:
    service.stack.kill_child("api")
    service.stack.start_child("api")
    service.stack.wait_until_ready()


@pytest.fixture
def answer_with() -> Callable[..., Answer]:
    """How a receiver is told to answer with a status."""
    return status


@pytest.fixture
def start_receiver() -> Iterator[Callable[..., Receiver]]:
    """Start receivers; all are stopped at the end."""
    receivers: list[Receiver] = []

    def start(port: int = 0, tls: ssl.SSLContext | None = None) -> Receiver:
        receivers.append(Receiver(port, tls))
        return receivers[-1]

    yield start
    for receiver in receivers:
        receiver.close()


@pytest.fixture
def receiver(start_receiver: Callable[..., Receiver]) -> Receiver:
    """One receiver, which answers 204 until it is told otherwise."""
    return start_receiver()


# What requests write; what the service itself goes on doing with it is left out.
_WRITTEN = {
    "jobs": "id, status, priority, name",
    "queues": "name, paused_at",
    "shares": "user_id, weight, max_running, max_queued",
    "transitions": "id",
    "sweeps": "id, cancelled_at",
    "users": "name, role, disabled_at",
    "tokens": "id, revoked_at",
    "webhooks": "id, enabled, events",
    "workers": "id, draining_since",
    "deliveries": "id",
    "idempotent_answers": "key",
    "audit": "id",
}


@pytest.fixture
def nothing_changes(service: Any) -> Iterator[None]:
    """Require that the test leaves behind what it has found in the database."""
    rows = (
        f"(SELECT json_agg(row({columns}) ORDER BY row({columns})) FROM {table}) AS {table}"
        for table, columns in _WRITTEN.items()
    )
    query = f"SELECT {', '.join(rows)}"
    before = service.rows(query)
    yield
    assert service.rows(query) == before
