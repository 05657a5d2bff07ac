"""The order of the waiting jobs: one rule, in SQL, by which workers claim and the API shows the line.

A job's effective priority is its priority, and a point more for each `ageing_seconds` in which its user was not served:
a heap of old jobs of one user overtakes nobody, and nobody starves. Among equals goes first whose user has the smallest
share: the GPU-seconds used, which count half after each half-life, and those that running jobs are expected to use,
divided by the user's weight. For jobs of the CPU it is seconds of slots. Of one user: priority, then submission.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from uuid import UUID

from sqlalchemy import Float, Integer, Select, String, Uuid, select
from sqlalchemy.orm import Session

from models.demand import Demand
from models.forecast import Place, Running
from models.line_sql import ENTER, HEAD, WAITING
from models.room import need_of
from models.settings import QueueRules, queue_rules

_LOCK = 7_248_690_214  # any constant of our own
_DEPTH = 20  # jobs of each kind and user that may pass a reserved one


@dataclass(frozen=True)
class GpuRoom:
    """What jobs can be given of a worker's GPUs: whole ones, the largest first, or part of the one with most left."""

    has_gpus: bool
    whole_bytes: Sequence[int]
    shared_bytes: int

    def takes(self, demand: Demand) -> bool:
        """Tell whether the demand fits, slots apart; the SQL of the line says the same."""
        need = need_of(demand, has_gpus=self.has_gpus)
        if need is None or need.gpus == 0:
            return need is not None
        if need.whole:
            return need.gpus <= len(self.whole_bytes) and need.gpu_bytes <= self.whole_bytes[need.gpus - 1]
        return need.gpu_bytes <= self.shared_bytes


_NO_GPUS = GpuRoom(has_gpus=True, whole_bytes=(), shared_bytes=0)


@dataclass(frozen=True)
class Offer:
    """What a worker can take right now, and at most: all that a claim knows of it."""

    queues: Sequence[str]
    free_slots: int
    has_gpus: bool = False  # jobs for `auto` run on GPUs here, else on the CPU; those for `cuda` never without
    idle_gpu_bytes: Sequence[int] = ()  # of each idle GPU, the largest first
    shared_gpu_bytes: int = 0  # the most free memory of a GPU that takes sharers, idle ones included; 0: none
    gpus: Mapping[str, int] = field(default_factory=dict)  # bytes of each GPU that there is, by its UUID
    running: Sequence[Running] = ()

    @property
    def all_gpu_bytes(self) -> Sequence[int]:
        """Bytes of every GPU, the largest first: what could ever fit."""
        return sorted(self.gpus.values(), reverse=True)

    @property
    def now(self) -> GpuRoom:
        """What is free."""
        return GpuRoom(self.has_gpus, self.idle_gpu_bytes, self.shared_gpu_bytes)

    @property
    def at_most(self) -> GpuRoom:
        """What is free once nothing runs here."""
        return GpuRoom(self.has_gpus, self.all_gpu_bytes, max(self.all_gpu_bytes, default=0))

    def beside(self, spared: Collection[str]) -> GpuRoom:
        """Return what is free where these GPUs are left alone."""
        room = self.place("").room.without(spared)
        return GpuRoom(self.has_gpus, room.idle_gpu_bytes, room.shared_gpu_bytes)

    def place(self, name: str) -> Place:
        """Return the worker of this name as a forecast sees it."""
        slots = self.free_slots + len(self.running)
        return Place(name, self.queues, self.has_gpus, slots, self.gpus, self.running)


def fits(offer: Offer, demand: Demand) -> bool:
    """Tell whether a job that asks for this could start now."""
    return offer.free_slots > 0 and offer.now.takes(demand)


@dataclass(frozen=True)
class Passing:
    """The estimates, in seconds, up to which jobs are let past a reserved one; without an estimate one never is.

    Infinity lets all pass, also those without an estimate, and so does room `beside` the reserved job, on GPUs that are
    too small for it.
    """

    on_cpu: float = inf
    on_gpus: float = inf
    beside: GpuRoom = _NO_GPUS

    @property
    def any(self) -> bool:
        """Whether nothing is reserved."""
        return self.on_cpu == self.on_gpus == inf


@dataclass(frozen=True)
class Head:
    """The job that is first in line, with the worker that is held for it and the seconds until it is to start there."""

    id: UUID
    demand: Demand
    reserved_by: str | None
    starts_in: float | None  # None: nobody knows, or it has no reservation
    others_reserved: bool  # whether a worker is held for another job


def enter_line(session: Session) -> None:
    """Let this transaction alone claim, until it ends: limits and shares are exact, for each claim sees all others.

    Raises OperationalError where that takes longer than a lock may be waited for.
    """
    session.execute(ENTER, {"lock": _LOCK})


def head_of_line(
    session: Session,
    queues: Sequence[str],
    room: GpuRoom,
    *,
    passed: Sequence[UUID] = (),
    passing: Passing | None = None,
    ahead_seconds: float = 0.0,
) -> Head | None:
    """Return the first job in line that fits this room, besides those in `passed`; None where there is none.

    Left out are paused queues, users who run as many jobs as they may, and jobs that wait for others. With `passing`
    it is the first that may pass a reserved one, and of each user only the first jobs are looked at.
    """
    passing = passing or Passing()
    parameters = _rules(queue_rules(), ahead_seconds) | {
        "queues": list(queues),
        "has_gpus": room.has_gpus,
        "whole_bytes": list(room.whole_bytes),
        "shared_bytes": room.shared_bytes,
        "passed": list(passed),
        "cpu_seconds": passing.on_cpu,
        "gpu_seconds": passing.on_gpus,
        "beside_whole_bytes": list(passing.beside.whole_bytes),
        "beside_shared_bytes": passing.beside.shared_bytes,
        "depth": None if passing.any else _DEPTH,
    }
    row = session.execute(HEAD, parameters).first()
    if row is None:
        return None
    demand = Demand(row.device, row.gpus, row.gpu_memory_bytes, row.exclusive)
    return Head(row.id, demand, row.reserved_by, row.starts_in, row.others_reserved)


def waiting_line(rules: QueueRules, *, ahead_seconds: float = 0.0) -> Select[tuple[UUID, UUID, int, int, float, str]]:
    """Return the query of the line as it stands: id, user_id, position (from 1), effective_priority, share, pool.

    It is the order in which the jobs would be claimed one after the other if each fitted: a user's second job comes
    with the share that the user has once the first one runs, and without the age that ends with being served. What
    cannot be claimed whatever is free, for its queue is paused or it waits for others, comes last. `pool` is `gpu` or
    `cpu`, by where it would run: `auto` on GPUs where a worker has any.
    """
    statement = WAITING.bindparams(**_rules(rules, ahead_seconds))
    line = statement.columns(
        id=Uuid, user_id=Uuid, position=Integer, effective_priority=Integer, share=Float, pool=String
    ).subquery("waiting_line")
    return select(line.c.id, line.c.user_id, line.c.position, line.c.effective_priority, line.c.share, line.c.pool)


def _rules(rules: QueueRules, ahead_seconds: float) -> dict[str, float]:
    return {"half_life": rules.share_half_life_seconds, "ageing": rules.ageing_seconds, "ahead": ahead_seconds}
