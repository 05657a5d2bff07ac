"""What is free on one worker: slots, and the memory of its GPUs, as jobs start and end on it."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import inf
from uuid import UUID

from models.demand import Demand

_WHOLE = -1  # bytes free on a GPU that one job has for itself: less than any job asks for


@dataclass(frozen=True)
class Need:
    """What a demand comes to on one worker: GPUs (0: the CPU), whole or shared, and the bytes of each."""

    gpus: int
    whole: bool
    gpu_bytes: int


@dataclass(frozen=True, eq=False)
class Stay:
    """A job on a worker: what it has there, which GPUs, when it ends (infinity: nobody knows), and whose it is."""

    need: Need
    gpus: tuple[str, ...]
    ends: float
    user: UUID | None


def need_of(demand: Demand, *, has_gpus: bool) -> Need | None:
    """Return what a demand comes to on a worker with or without GPUs; None where it is for GPUs and there are none."""
    if demand.gpus == 0 or (demand.device == "auto" and not has_gpus):
        return Need(0, whole=False, gpu_bytes=0)
    if not has_gpus:
        return None
    return Need(demand.gpus, demand.takes_whole_gpus, demand.gpu_memory_bytes or 0)


class Room:
    """The free part of a worker with these slots and GPUs (bytes of each), all of it free at first.

    `idle_gpu_bytes` are those of each GPU that nobody is on, the largest first; `shared_gpu_bytes` are the most that
    one more job could have of a GPU, an idle one included (0: none).
    """

    def __init__(self, slots: int, gpus: Mapping[str, int]) -> None:
        """Begin with nothing taken."""
        self.slots = slots
        self.free_slots = slots
        self.stays: set[Stay] = set()
        self._all = dict(gpus)
        self._free = dict(gpus)
        self._users = dict.fromkeys(gpus, 0)
        self._sum_up()

    def copy(self) -> "Room":
        """Return one with the same stays, to be changed apart."""
        other = Room(self.slots, self._all)
        other.free_slots, other.stays = self.free_slots, set(self.stays)
        other._free, other._users = dict(self._free), dict(self._users)
        other._sum_up()
        return other

    def usable_by(self, need: Need) -> frozenset[str]:
        """Return the GPUs that are large enough for this need, whoever is on them."""
        return frozenset(uuid for uuid, size in self._all.items() if size >= need.gpu_bytes)

    def without(self, spared: Collection[str]) -> "Room":
        """Return what is free now besides these GPUs, to be looked at: nothing starts or ends in it."""
        if not spared:
            return self
        other = Room(self.slots, {uuid: size for uuid, size in self._all.items() if uuid not in spared})
        other.free_slots = self.free_slots
        other._free = {uuid: self._free[uuid] for uuid in other._all}
        other._users = {uuid: self._users[uuid] for uuid in other._all}
        other._sum_up()
        return other

    def could_hold(self, need: Need) -> bool:
        """Tell whether it would fit if nothing ran here."""
        return self.slots > 0 and sum(size >= need.gpu_bytes for size in self._all.values()) >= need.gpus

    def fits(self, need: Need) -> bool:
        """Tell whether it fits now."""
        return self.free_slots > 0 and self.fits_on_gpus(need)

    def fits_on_gpus(self, need: Need) -> bool:
        """Tell whether its GPUs are free now, slots apart."""
        if need.gpus == 0:
            return True
        if need.whole:
            idle = self.idle_gpu_bytes
            return need.gpus <= len(idle) and need.gpu_bytes <= idle[need.gpus - 1]
        return need.gpu_bytes <= self.shared_gpu_bytes

    def choose(self, need: Need) -> tuple[str, ...]:
        """Return the GPUs for a need that fits: the fullest that will do where they are shared, else the largest."""
        if need.gpus == 0:
            return ()
        free, users = self._free, self._users
        if need.whole:  # it may come to need more than it says, or nobody knows what it needs
            return tuple(sorted(self._idle(need), key=lambda uuid: (-free[uuid], uuid))[: need.gpus])
        fitting = (uuid for uuid in free if free[uuid] >= need.gpu_bytes)
        # An idle GPU is left to those that need a whole one, however small it is.
        return (min(fitting, key=lambda uuid: (not users[uuid], free[uuid], uuid)),)

    def take(self, stay: Stay) -> None:
        """Let a job start."""
        self.stays.add(stay)
        self.free_slots -= 1
        for uuid in stay.gpus:
            self._users[uuid] += 1
            self._free[uuid] = _WHOLE if stay.need.whole else self._free[uuid] - stay.need.gpu_bytes
        self._sum_up()

    def leave(self, stay: Stay) -> None:
        """Let a job end."""
        self.stays.remove(stay)
        self.free_slots += 1
        for uuid in stay.gpus:
            self._users[uuid] -= 1
            self._free[uuid] = self._all[uuid] if stay.need.whole else self._free[uuid] + stay.need.gpu_bytes
        self._sum_up()

    def fits_from(self, need: Need) -> float:
        """Return when it fits if nothing else starts: 0 now, infinity where nobody knows or it never does."""
        if self.fits(need):
            return 0.0
        later = self.copy()
        for stay in _by_end(self.stays):
            later.leave(stay)
            if later.fits(need):
                return stay.ends
        return inf

    def _sum_up(self) -> None:
        """Know what decides whether a need fits, which is asked far more often than anything changes."""
        idle = (size for uuid, size in self._all.items() if not self._users[uuid])
        self.idle_gpu_bytes = sorted(idle, reverse=True)
        self.shared_gpu_bytes = max([0, *self._free.values()])

    def _idle(self, need: Need) -> Iterable[str]:
        return (uuid for uuid, users in self._users.items() if not users and self._all[uuid] >= need.gpu_bytes)


def _by_end(stays: Iterable[Stay]) -> list[Stay]:
    return sorted((stay for stay in stays if stay.ends < inf), key=lambda stay: stay.ends)
