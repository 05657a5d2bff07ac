"""Workers and waiting jobs as pure rules see them: what fits where, from when, and why a job waits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from uuid import UUID

from models.demand import Demand
from models.room import Need, Room, Stay, need_of
from models.wait_reason import WaitReason

TOLERANCE_SECONDS = 5  # what a reserved start may be off before it is worth a change of what is reserved


@dataclass(frozen=True)
class Running:
    """One job that runs: what it asked for, the GPUs that it got (none: it runs on the CPU), the seconds it has left.

    `remaining_seconds` is None where nobody knows, negative where it runs for longer than estimated. For `user` asks
    `schedule` alone, because of the limits of users.
    """

    demand: Demand
    gpus: Sequence[str]
    remaining_seconds: float | None
    user: UUID | None = None


@dataclass(frozen=True)
class Place:
    """A worker that takes jobs (online, not draining): the queues it serves, its slots, its GPUs with their bytes."""

    name: str
    queues: Sequence[str]
    has_gpus: bool
    slots: int
    gpus: Mapping[str, int]
    running: Sequence[Running]

    def need(self, demand: Demand) -> Need | None:
        """Return what a demand comes to here; None where it never fits."""
        need = need_of(demand, has_gpus=self.has_gpus)
        return need if need is not None and self.room.could_hold(need) else None

    def usable_by(self, demand: Demand) -> frozenset[str]:
        """Return the GPUs that are large enough for a demand, whoever is on them."""
        need = need_of(demand, has_gpus=self.has_gpus)
        return frozenset() if need is None else self.room.usable_by(need)

    @cached_property
    def room(self) -> Room:
        """What is free here now; to be copied, not changed."""
        room = Room(self.slots, self.gpus)
        for running in self.running:
            gpus = tuple(uuid for uuid in running.gpus if uuid in self.gpus)
            need = Need(len(gpus), running.demand.takes_whole_gpus, running.demand.gpu_memory_bytes or 0)
            ends = inf if running.remaining_seconds is None else still_to_go(running.remaining_seconds)
            room.take(Stay(need, gpus, ends, running.user))
        return room


@dataclass(frozen=True)
class Waiting:
    """One job in the line. `seconds` is its estimate from start to end, None where no like job was measured.

    `held` is what keeps it out of the line whatever is free: WAITS_FOR_JOBS or QUEUE_PAUSED.
    """

    id: UUID
    user: UUID
    queue: str
    demand: Demand
    seconds: float | None
    held: WaitReason | None = None


def earliest_start(place: Place, demand: Demand) -> float | None:
    """Return the seconds until `demand` fits at `place` if nothing else starts there; None: unknown, or never."""
    need = place.need(demand)
    start = inf if need is None else place.room.fits_from(need)
    return None if start == inf else start


def still_to_go(seconds: float) -> float:
    """Return the seconds until what was expected in so many; they are negative where it is late.

    What is late is expected to be late by as much once more: the median of what is left where nothing but the time that
    has passed is known (J. R. Gott, Nature 363, 1993). Were it expected at any moment, others would wait behind it for
    ever.
    """
    return abs(seconds)


def starts_sooner(here: float, there: float) -> bool:
    """Tell whether a start here is sooner than one there by more than what estimates go up and down by themselves.

    Both are in seconds; infinity: nobody knows, and a start that is known is sooner.
    """
    return here < there - TOLERANCE_SECONDS


def wait_reason(
    job: Waiting, places: Sequence[Place], *, at_limit: bool, reserved: Mapping[str, UUID] | None = None
) -> WaitReason:
    """Return why `job` does not run now: `at_limit` says that its user runs as many jobs as they may.

    `reserved` names for each place that holds a reservation the job that it is held for.
    """
    if job.held is not None:
        return job.held
    if at_limit:
        return WaitReason.USER_LIMIT
    serving = [place for place in places if job.queue in place.queues]
    if not serving:
        return WaitReason.NO_WORKER_FOR_QUEUE
    able = [(place, need) for place in serving if (need := place.need(job.demand)) is not None]
    if not able:
        enough = any(place.has_gpus and len(place.gpus) >= job.demand.gpus for place in serving)
        return WaitReason.NEEDS_MORE_MEMORY if enough else WaitReason.NEEDS_MORE_GPUS
    fitting = [place for place, need in able if place.room.fits(need)]
    if fitting:
        holders = [(reserved or {}).get(place.name, job.id) for place in fitting]
        return WaitReason.NO_FREE_SLOT if job.id in holders else WaitReason.RESERVED_FOR_LARGER_JOB
    if all(place.room.free_slots <= 0 for place, _ in able):
        return WaitReason.NO_FREE_SLOT
    return WaitReason.NEEDS_MORE_GPUS if job.demand.takes_whole_gpus else WaitReason.NEEDS_MORE_MEMORY
