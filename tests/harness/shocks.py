"""The faults of the soak: each strikes a running stack at once, and heals it later."""

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random

import psutil
import psycopg
import redis

from harness.service import Service
from models.faults import FaultPoint
from models.settings import Settings

Heal = Callable[[], None]
_STOP_SECONDS = 30.0  # in which a worker that is told to stop is gone; to wait for it would hold other faults up
_LOCK_TIMEOUT = "1s"  # for the jobs, which an earlier fault may have locked, and the same thread is to heal that
WORKERS = ("worker-1", "worker-2")
# Moments of workers and runners; a held API would hold the soak, which asks it all the time.
_POINTS = (
    FaultPoint.CLAIM,
    FaultPoint.CLAIMED,
    FaultPoint.DATA_LOADING,
    FaultPoint.EPOCH,
    FaultPoint.CHECKPOINT_WRITE,
    FaultPoint.CHECKPOINT_SAVED,
    FaultPoint.EPOCH_TRANSACTION,
    FaultPoint.FINAL_EVALUATION,
    FaultPoint.FINAL_TRANSACTION,
    FaultPoint.RENEWAL,
)
_NEWEST_OF_YOUNG = """
    SELECT DISTINCT ON (job_id) job_id, checkpoint FROM epochs JOIN jobs ON jobs.id = job_id
    WHERE status = 'running' AND epochs.epoch < jobs.epochs / 2 ORDER BY job_id, epoch DESC
"""
_GARBAGE = (b"", b"\xff\xfe\x00garbage", b"{}", b"[" * 10_000, b'{"body": "bm90IGpzb24=", "headers": {}}')


@dataclass(frozen=True)
class Strike:
    """A fault that is there: how it is healed, and which workers cannot claim until then, or not at once."""

    heal: Heal
    stalled: Sequence[str] = ()


@dataclass(frozen=True)
class Shock:
    """A fault by its name, which is healed after `seconds`; `strike` returns None where there is nothing to strike."""

    name: str
    seconds: float
    strike: Callable[[Service, Random], Strike | None]


def shocks(lease_seconds: float) -> Sequence[Shock]:
    """Return all of them, for a stack with leases of this length."""
    beyond_lease = 2 * lease_seconds
    return (
        Shock("runner killed", 0, _kill_runner),
        Shock("worker killed", 1, _kill(*WORKERS)),
        Shock("worker killed for longer than its lease", beyond_lease, _kill(*WORKERS)),
        Shock("worker told to stop", _STOP_SECONDS, _terminate_worker),
        Shock("worker suspended beyond its lease", beyond_lease, _suspend(*WORKERS)),
        Shock("worker suspended within its lease", lease_seconds / 3, _suspend(*WORKERS)),
        Shock("worker or runner killed at a named moment", 3, _kill_at_a_point),
        Shock("API killed", 1, _kill("api")),
        Shock("scheduler killed", 2, _kill("scheduler")),
        Shock("Postgres killed", 1, _kill("postgres")),
        Shock("Postgres away for longer than a lease", beyond_lease, _kill("postgres")),
        Shock("broker killed", 3, _kill("valkey")),
        Shock("broker suspended", 3, _suspend("valkey")),
        Shock("broker emptied", 0, _empty_broker),
        Shock("garbage in the queue", 0, _send_garbage),
        Shock("jobs table locked", 5, _lock_jobs),
        Shock("newest checkpoint damaged", 0, _damage_checkpoint),
    )


def _kill(*names: str) -> Callable[[Service, Random], Strike | None]:
    def strike(service: Service, chance: Random) -> Strike | None:
        name = _running(service, names, chance)
        if name is None:
            return None
        service.stack.kill_child(name)
        return Strike(lambda: _start_again(service, name), WORKERS if name == "postgres" else [name])

    return strike


def _suspend(*names: str) -> Callable[[Service, Random], Strike | None]:
    def strike(service: Service, chance: Random) -> Strike | None:
        name = _running(service, names, chance)
        if name is None:
            return None
        service.stack.kill_child(name, signal.SIGSTOP)
        return Strike(lambda: service.stack.kill_child(name, signal.SIGCONT), [name])

    return strike


def _terminate_worker(service: Service, chance: Random) -> Strike | None:
    name = _running(service, WORKERS, chance)
    if name is None:
        return None
    service.stack.kill_child(name, signal.SIGTERM)
    told = service.stack.pid(name)

    def heal() -> None:
        is_there = service.stack.pid(name) == told and service.stack.is_running(name)
        assert not is_there, f"{name} was told to stop, and is not gone in {_STOP_SECONDS:g} s"
        _start_again(service, name)

    return Strike(heal, [name])


def _kill_runner(service: Service, chance: Random) -> Strike | None:
    running = [name for name in WORKERS if service.stack.is_running(name)]
    runners = [runner for name in running for runner in service.runners(name)]
    if not runners:
        return None
    chance.choice(runners).kill()
    return Strike(_nothing)


def _kill_at_a_point(service: Service, chance: Random) -> Strike | None:
    point = chance.choice(_POINTS)
    service.faults.arm(point, passes=chance.randrange(3))

    def heal() -> None:
        for pid in service.faults.held_now(point):
            with suppress(ProcessLookupError):  # another fault was faster
                os.kill(pid, signal.SIGKILL)
            for name in WORKERS:
                if service.stack.pid(name) == pid and service.stack.is_running(name):
                    service.stack.kill_child(name)  # and wait for its end
                    service.stack.start_child(name)
        service.faults.release(point)

    return Strike(heal, WORKERS)  # who is held in its claim has the turn


def _empty_broker(service: Service, _: Random) -> Strike | None:
    if not service.stack.is_running("valkey"):
        return None
    with _broker(service) as broker:
        broker.flushall()
    return Strike(_nothing)


def _send_garbage(service: Service, chance: Random) -> Strike | None:
    if not service.stack.is_running("valkey"):
        return None
    with _broker(service) as broker:
        broker.lpush(f"{Settings.model_fields['redis_key_prefix'].default}default", chance.choice(_GARBAGE))
    return Strike(_nothing)


def _lock_jobs(service: Service, _: Random) -> Strike | None:
    if not service.stack.is_running("postgres"):
        return None
    connection = service.connect(_LOCK_TIMEOUT)
    try:
        connection.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
    except psycopg.Error:
        connection.close()
        raise
    return Strike(connection.close, WORKERS)


def _damage_checkpoint(service: Service, chance: Random) -> Strike | None:
    """Damage the newest checkpoint of a job with more than half of its epochs before it: it is not its last."""
    if not service.stack.is_running("postgres"):
        return None
    found = service.rows(_NEWEST_OF_YOUNG, lock_timeout=_LOCK_TIMEOUT)
    if not found:
        return None
    newest = chance.choice(found)
    file = service.stack.artifacts / str(newest["job_id"]) / newest["checkpoint"]
    try:
        content = bytearray(file.read_bytes())
        if chance.random() < 0.5:
            del content[len(content) // 2 :]
        else:
            content[len(content) // 2] ^= 1
        file.write_bytes(content)
    except FileNotFoundError:  # it was superfluous just now
        return None
    return Strike(_nothing)


def _running(service: Service, names: Sequence[str], chance: Random) -> str | None:
    """Choose a child that runs and is not suspended."""
    able = [
        name
        for name in names
        if service.stack.is_running(name)
        and psutil.Process(service.stack.pid(name)).status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
    ]
    return chance.choice(able) if able else None


def _start_again(service: Service, name: str) -> None:
    """Start a child, where the healing of another fault has not done so."""
    if not service.stack.is_running(name):
        service.stack.start_child(name)


def _broker(service: Service) -> redis.Redis:
    return redis.Redis(unix_socket_path=service.stack.redis_url.removeprefix("redis+socket://"), socket_timeout=5)


def _nothing() -> None:
    """Heal what heals by itself."""
