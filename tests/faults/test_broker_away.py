"""The broker killed, suspended, emptied, or full of what nobody sent: it only wakes, so no job notices."""

import json
import signal
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from harness.figures import Figures, figures_of
from harness.invariants import require_invariants
from models.wake import WAKE_TASK

pytestmark = pytest.mark.usefixtures("own_servers")

SPEC: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "network": {"name": "mlp", "hidden": [32], "dropout": 0.2},
    "training": {"epochs": 120, "seed": 5},
}
SHORT = SPEC | {"training": {"epochs": 2, "seed": 5}}
QUICK = {"lease_seconds": 5, "beat_seconds": 0.5, "poll_seconds": 0.5, "sweep_seconds": 0.5}
QUEUE = "default"
KEY = f"trainyard:{QUEUE}"
PATIENCE_SECONDS = 240  # on a machine that is busy with other things
STOP_SECONDS = 30  # in which a worker that is told to stop is gone


def warm(service: Any) -> Any:
    """Return the service when its worker has imported torch, before which no job can start."""
    service.wait_for_end(service.submit(SHORT), PATIENCE_SECONDS)
    return service


@pytest.fixture(scope="module")
def stack(start_service: Any) -> Any:
    """One stack with two slots, whose worker looks for jobs often."""
    return warm(start_service(slots=2, **QUICK))


@pytest.fixture(scope="module")
def listening(start_service: Any) -> Any:
    """One stack whose worker looks for jobs only when it is woken."""
    return warm(start_service(**QUICK | {"poll_seconds": 3_600}))


@pytest.fixture(scope="module")
def undisturbed(stack: Any) -> Figures:
    """The figures of the job when nothing happens."""
    job_id = stack.submit(SPEC)
    stack.wait_for_end(job_id, PATIENCE_SECONDS)
    return figures_of(stack, job_id)


@contextmanager
def broker_of(service: Any) -> Iterator[Redis]:
    """Open a connection to the broker of a stack."""
    path = service.stack.redis_url.removeprefix("redis+socket://")
    with Redis(unix_socket_path=path, socket_timeout=10, retry=Retry(NoBackoff(), 0)) as client:
        yield client


@contextmanager
def killed(service: Any) -> Iterator[None]:
    """Let there be no broker during the body, and an empty one afterwards."""
    service.stack.kill_child("valkey")
    try:
        yield
    finally:
        service.stack.start_child("valkey")


@contextmanager
def suspended(service: Any) -> Iterator[None]:
    """Let the broker take connections and answer nothing during the body."""
    service.stack.kill_child("valkey", signal.SIGSTOP)
    try:
        yield
    finally:
        service.stack.kill_child("valkey", signal.SIGCONT)


@contextmanager
def emptied(service: Any) -> Iterator[None]:
    """Let the broker have forgotten everything, queues and bindings too."""
    with broker_of(service) as broker:
        broker.flushall()
    yield


def goes_on_and_is_cancelled(service: Any, job_id: str) -> None:
    """See the job through its second attempt."""
    service.wait_for(job_id, lambda job: job["attempt"] == 2, PATIENCE_SECONDS)
    service.http.post(f"/jobs/{job_id}/cancel").raise_for_status()
    assert service.wait_for_end(job_id, PATIENCE_SECONDS)["status"] == "cancelled"
    (second,) = service.rows("SELECT started_at FROM attempts WHERE job_id = %s AND number = 2", job_id)
    require_invariants(service, [job_id], healed_at=second["started_at"])


FAULTS = [killed, suspended, emptied]
Fault = Callable[[Any], Any]


@pytest.mark.parametrize("fault", FAULTS)
def test_neither_a_running_job_nor_one_that_is_submitted_meanwhile_notices(
    fault: Fault, stack: Any, undisturbed: Figures
) -> None:
    running = stack.submit(SPEC)
    stack.wait_for(running, lambda job: job["progress"]["epoch"] >= 3, PATIENCE_SECONDS)
    with fault(stack):
        while_away = stack.submit(SHORT)
        assert stack.wait_for_end(while_away, PATIENCE_SECONDS)["status"] == "succeeded"
        assert stack.wait_for_end(running, PATIENCE_SECONDS)["status"] == "succeeded"
    afterwards = stack.submit(SHORT)
    assert stack.wait_for_end(afterwards, PATIENCE_SECONDS)["status"] == "succeeded"
    require_invariants(stack, [running], undisturbed=undisturbed)
    require_invariants(stack, [while_away, afterwards])
    outcomes = stack.rows("SELECT outcome FROM attempts WHERE job_id = ANY(%s)", [running, while_away, afterwards])
    assert outcomes == [{"outcome": "succeeded"}] * 3


@pytest.mark.parametrize("fault", [killed, suspended])
def test_an_idle_worker_finds_what_is_submitted_while_the_broker_is_away(fault: Fault, stack: Any) -> None:
    with fault(stack):
        job_id = stack.submit(SHORT)
        assert stack.wait_for_end(job_id, PATIENCE_SECONDS)["status"] == "succeeded"
    require_invariants(stack, [job_id])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_worker_that_only_listens_is_woken_again_once_the_broker_is_back(fault: Fault, listening: Any) -> None:
    with fault(listening):
        while_away = listening.submit(SHORT)
        moved = listening.rows("SELECT status FROM jobs WHERE id = %s", while_away)
    assert moved[0]["status"] in {"queued", "running"}
    assert listening.wait_for_end(while_away, PATIENCE_SECONDS)["status"] == "succeeded"
    afterwards = listening.submit(SHORT)
    assert listening.wait_for_end(afterwards, PATIENCE_SECONDS)["status"] == "succeeded"


def test_a_worker_that_is_told_to_stop_while_the_broker_is_suspended_gives_its_job_back_and_is_soon_gone(
    stack: Any,
) -> None:
    job_id = stack.submit(SPEC | {"training": {"epochs": 100_000}})
    stack.wait_for(job_id, lambda job: job["progress"]["epoch"] >= 3, PATIENCE_SECONDS)
    with suspended(stack):
        stack.stack.kill_child("worker-1", signal.SIGTERM)
        job = stack.wait_for(job_id, lambda job: job["status"] == "queued", STOP_SECONDS)
        assert (job["reason"], job["retries"]) == ("preempted", 0)
        stack.wait_until_gone("worker-1", STOP_SECONDS)
    stack.stack.start_child("worker-1")
    goes_on_and_is_cancelled(stack, job_id)


def test_a_lost_worker_is_noticed_while_the_broker_is_suspended(stack: Any) -> None:
    job_id = stack.submit(SPEC | {"training": {"epochs": 100_000}})
    stack.wait_for(job_id, lambda job: job["progress"]["epoch"] >= 3, PATIENCE_SECONDS)
    with suspended(stack):
        stack.stack.kill_child("worker-1")
        job = stack.wait_for(job_id, lambda job: job["status"] == "queued", PATIENCE_SECONDS)
        assert job["reason"] == "worker_lost"
    stack.stack.start_child("worker-1")
    goes_on_and_is_cancelled(stack, job_id)


def envelope(task: str, call: Any, **changes: Any) -> bytes:
    """Return a message as Celery would send it by Redis, with whatever task and call."""
    message = {
        "body": b64encode(json.dumps(call).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": task, "id": "1", "root_id": "1", "retries": 0},
        "properties": {
            "correlation_id": "1",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": QUEUE},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": "1",
        },
    }
    return json.dumps(message | changes).encode()


WAKE = envelope(WAKE_TASK, [[QUEUE], {}, {}])
GARBAGE = {
    "raw bytes": [b"\x00\xff\xfe garbage \x80"],
    "nothing": [b""],
    "no JSON": [b"{"],
    "foreign JSON": [b'{"event": "user.created", "id": 7}', b"[1, 2]", b"null", b"7", b'"text"'],
    "deep JSON": [b"[" * 100_000 + b"]" * 100_000],
    "no headers": [envelope(WAKE_TASK, [[QUEUE], {}, {}], headers=None)],
    "unknown task": [envelope("shop.tasks.send_mail", [["a"], {}, {}])],
    "wrong arguments": [envelope(WAKE_TASK, [[1, 2, 3], {"x": 1}, {}])],
    "no arguments": [envelope(WAKE_TASK, "text")],
    "no base64": [envelope(WAKE_TASK, [], body="%%%")],
    "pickle": [envelope(WAKE_TASK, [[QUEUE], {}, {}], **{"content-type": "application/x-python-serialize"})],
    "huge": [envelope(WAKE_TASK, [["x" * 20_000_000], {}, {}]), b"x" * 20_000_000],
    "many times the same": [WAKE] * 500,
}


@pytest.mark.parametrize("messages", GARBAGE.values(), ids=GARBAGE)
def test_a_worker_outlives_what_stands_in_its_queue_and_still_hears_wake_ups(
    messages: list[bytes], listening: Any
) -> None:
    worker = listening.stack.pid("worker-1")
    with broker_of(listening) as broker:
        broker.lpush(KEY, *messages)
    job_id = listening.submit(SHORT)
    assert listening.wait_for_end(job_id, PATIENCE_SECONDS)["status"] == "succeeded"
    listening.stack.check()
    assert listening.stack.pid("worker-1") == worker
    require_invariants(listening, [job_id])


def test_messages_that_come_twice_and_in_another_order_start_each_job_once(stack: Any) -> None:
    ids = [stack.submit(SHORT) for _ in range(6)]
    with broker_of(stack) as broker:
        for _ in range(20):
            broker.rpush(KEY, WAKE)
            broker.lpush(KEY, WAKE)
    assert {stack.wait_for_end(job_id, PATIENCE_SECONDS)["status"] for job_id in ids} == {"succeeded"}
    require_invariants(stack, ids)
    attempts = stack.rows("SELECT count(*) AS n FROM attempts WHERE job_id = ANY(%s) GROUP BY job_id", ids)
    assert [row["n"] for row in attempts] == [1] * len(ids)
