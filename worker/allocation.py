"""What a worker can take beside what it runs, which GPUs a job gets, and how many threads: pure functions."""

from collections.abc import Collection

from models.demand import Demand
from models.forecast import Place
from models.line import Offer


def allocate(place: Place, demand: Demand, spared: Collection[str] = ()) -> tuple[str, ...] | None:
    """Return the GPUs for one more job, none for one of the CPU; None where it does not fit now.

    A job that shares gets the fullest GPU that still holds it, and no idle one if another will do. One that shares with
    nobody gets the largest that are idle. The GPUs in `spared` are left alone.
    """
    need, room = place.need(demand), place.room.without(spared)
    return room.choose(need) if need is not None and room.fits(need) else None


def offer_of(place: Place) -> Offer:
    """Return what a worker can take beside what it runs, and what it could take at most."""
    room = place.room
    return Offer(
        queues=place.queues,
        has_gpus=place.has_gpus,
        free_slots=room.free_slots,
        idle_gpu_bytes=room.idle_gpu_bytes,
        shared_gpu_bytes=room.shared_gpu_bytes,
        gpus=place.gpus,
        running=place.running,
    )


def threads_of_each(cores: int, slots: int) -> int:
    """Return how many threads each of `slots` jobs computes with: all together never more than there are cores.

    The part is the same whatever else runs now, for torch's threads are set once in a process; two jobs with default
    threads made 0.4 to 0.7 of what one makes. Raises ValueError for more slots than cores: see `slots_within`.
    """
    if slots > cores:
        raise ValueError(f"{slots} jobs on {cores} cores have more threads than there are cores")
    return cores // slots


def slots_within(cores: int, slots: int) -> int:
    """Return how many of `slots` jobs may run at once, with a thread for each and no more threads than cores."""
    return min(slots, cores)
