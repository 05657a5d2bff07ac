"""When waiting jobs start and why they wait: the line played forward over the workers, without clock or database."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from uuid import UUID

from models.demand import Demand
from models.kind import Kind, Turn
from models.room import Need, Room, Stay, need_of
from models.wait_reason import NoEstimate, WaitReason


@dataclass(frozen=True)
class Running:
    """One job that runs: what it asked for, the GPUs that it got (none: it runs on the CPU), the seconds it has left.

    `remaining_seconds` is None where nobody knows, 0 where it has run for longer than estimated. `user` is needed by
    `schedule` alone, for the limits of users.
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

    @cached_property
    def room(self) -> Room:
        """What is free here now; to be copied, not changed."""
        room = Room(self.slots, self.gpus)
        for running in self.running:
            gpus = tuple(uuid for uuid in running.gpus if uuid in self.gpus)
            need = Need(len(gpus), running.demand.takes_whole_gpus, running.demand.gpu_memory_bytes or 0)
            ends = inf if running.remaining_seconds is None else max(0.0, running.remaining_seconds)
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


@dataclass(frozen=True)
class Slot:
    """When a waiting job starts and ends, in seconds from now; `no_estimate` says why one of the two is None."""

    starts_in: float | None
    finishes_in: float | None
    no_estimate: NoEstimate | None = None


def earliest_start(place: Place, demand: Demand) -> float | None:
    """Return the seconds until `demand` fits at `place` if nothing else starts there; None: unknown, or never."""
    need = place.need(demand)
    start = inf if need is None else place.room.fits_from(need)
    return None if start == inf else start


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


def schedule(
    places: Sequence[Place],
    line: Sequence[Waiting],
    *,
    limits: Mapping[UUID, int] | None = None,
    reserved: Mapping[str, UUID] | None = None,
) -> dict[UUID, Slot]:
    """Play the line (in the order of claims) forward over the places; return for every job of it when it runs.

    Each place claims as a worker does: the first in line that it can hold now. For the first that it could hold but not
    now it is held, unless another place is; others then pass only where they take nothing of what that one needs, or
    end before it starts. `limits` is how many jobs of a user may run at once (who is not in it has no limit),
    `reserved` the job that each place is held for already. The estimates are taken as exact, the order as fixed.
    """
    return _Play(places, line, limits or {}, reserved or {}).run()


@dataclass(frozen=True)
class _Candidate:
    """A job that a worker looks at, with what it needs there."""

    turn: Turn
    kind: Kind
    need: Need


@dataclass(eq=False)
class _Worker:
    """One place while the line is played: its room, and the kinds that it could hold with what they need there."""

    room: Room
    serves: list[tuple[Kind, Need]]


class _Play:
    """The line played forward, from one end of a job to the next."""

    def __init__(
        self,
        places: Sequence[Place],
        line: Sequence[Waiting],
        limits: Mapping[UUID, int],
        reserved: Mapping[str, UUID],
    ) -> None:
        self._line, self._limits = line, limits
        self._now = 0.0
        self._holder_of: dict[int, _Worker] = {}  # the worker that is held for a job, by its place in the line
        self._slots: dict[UUID, Slot] = {}
        self._parked: dict[UUID, list[tuple[Kind, int]]] = defaultdict(list)  # heads of users at their limit
        kinds = _kinds(line)
        self._workers = [_Worker(place.room.copy(), list(_served(place, kinds))) for place in places]
        self._due = set(self._workers)  # those for whom something has changed since they last claimed
        self._able = {(kind.queue, kind.demand) for worker in self._workers for kind, _ in worker.serves}
        stays = [(worker, stay) for worker in self._workers for stay in worker.room.stays]
        self._running_of = Counter(stay.user for _, stay in stays)
        self._full = {user for user, limit in limits.items() if self._running_of[user] >= limit}
        self._order = count()
        self._ends = [(stay.ends, next(self._order), worker, stay) for worker, stay in stays if stay.ends < inf]
        heapify(self._ends)
        place_of = {job.id: place for place, job in enumerate(line)}
        for place, worker in zip(places, self._workers, strict=True):
            if (held_for := place_of.get(reserved.get(place.name, UUID(int=0)))) is not None:
                self._holder_of[held_for] = worker

    def run(self) -> dict[UUID, Slot]:
        """Return when each job of the line runs."""
        self._claim_all()
        while self._ends:
            self._go_on()
            self._claim_all()
        return self._slots | {job.id: self._never(job) for job in self._line if job.id not in self._slots}

    def _claim_all(self) -> None:
        """Let one worker after the other claim what it can, until there is nothing to claim."""
        while self._due:
            for worker in self._workers:
                if worker in self._due:
                    self._due.remove(worker)
                    while worker.room.free_slots > 0 and (found := self._next_for(worker)) is not None:
                        self._start(worker, found)

    def _next_for(self, worker: _Worker) -> _Candidate | None:
        """Return what this worker claims next; where the first in line does not fit, hold the worker for it."""
        first: _Candidate | None = None
        blocked: _Candidate | None = None
        for kind, need in worker.serves:
            head = self._head(kind)
            if head is None or (first is not None and head > first.turn):
                continue
            if worker.room.fits_on_gpus(need):
                first = _Candidate(head, kind, need)
            elif blocked is None or head < blocked.turn:
                turn = self._first_not_held_elsewhere(worker, kind, head)
                if turn is not None and (blocked is None or turn < blocked.turn):
                    blocked = _Candidate(turn, kind, need)
        if blocked is None or (first is not None and first.turn < blocked.turn):
            self._hold(worker, None)
            return first
        self._hold(worker, blocked.turn[0])
        return None if first is None else self._passing(worker, blocked.need)

    def _hold(self, worker: _Worker, place: int | None) -> None:
        """Hold a worker for this job alone; that it held for another before, others may be held for now."""
        before = next((held for held, holder in self._holder_of.items() if holder is worker), None)
        if before is not None and before != place:
            del self._holder_of[before]
            self._due.update(self._workers)
        if place is not None:
            self._holder_of[place] = worker

    def _first_not_held_elsewhere(self, worker: _Worker, kind: Kind, head: Turn) -> Turn | None:
        """Return the first of a kind, which is `head` or comes after it, that no other worker is held for."""
        if self._holder_of.get(head[0], worker) is worker:
            return head
        turns = (turn for turn in kind.waiting() if turn[1] not in self._full)
        return next((turn for turn in turns if self._holder_of.get(turn[0], worker) is worker), None)

    def _passing(self, worker: _Worker, reserved: Need) -> _Candidate | None:
        """Return the first in line that may start here before the one that this worker is held for.

        That one waits for GPUs, and a slot comes free with them: a job of the CPU takes nothing of what it needs.
        """
        start = worker.room.fits_from(reserved)
        room_left = start - self._now if start < inf else -1.0  # without an estimate of its start, none is short enough
        best: _Candidate | None = None
        for kind, need in worker.serves:
            if not worker.room.fits_on_gpus(need):
                continue
            turns = kind.not_longer(room_left) if need.gpus else filter(None, [self._head(kind)])
            turn = next((turn for turn in turns if turn[1] not in self._full), None)
            if turn is not None and (best is None or turn < best.turn):
                best = _Candidate(turn, kind, need)
        return best

    def _start(self, worker: _Worker, found: _Candidate) -> None:
        place, user = found.turn
        found.kind.take(found.turn)
        if (holder := self._holder_of.pop(place, worker)) is not worker:
            self._due.add(holder)
        job = self._line[place]
        ends = inf if job.seconds is None else self._now + job.seconds
        stay = Stay(found.need, worker.room.choose(found.need), ends, user)
        worker.room.take(stay)
        self._count(user, 1)
        if ends < inf:
            heappush(self._ends, (ends, next(self._order), worker, stay))
            self._slots[job.id] = Slot(self._now, ends)
        else:
            self._slots[job.id] = Slot(self._now, None, NoEstimate.NOT_MEASURED)

    def _go_on(self) -> None:
        """Go on to the next moment at which jobs end."""
        self._now = self._ends[0][0]
        while self._ends and self._ends[0][0] == self._now:
            _, _, worker, stay = heappop(self._ends)
            worker.room.leave(stay)
            self._count(stay.user, -1)
            self._due.add(worker)
            if stay.user is not None and (parked := self._parked.pop(stay.user, None)):
                for kind, place in parked:
                    heappush(kind.heads, (place, stay.user))
                self._due.update(self._workers)  # a slot may be free for want of this user's jobs

    def _head(self, kind: Kind) -> Turn | None:
        """Return the first of a kind whose user may run one more; who may not waits aside for an end of theirs."""
        while kind.heads:
            head = kind.heads[0]
            if head[1] not in self._full:
                return head
            heappop(kind.heads)
            self._parked[head[1]].append((kind, head[0]))
        return None

    def _count(self, user: UUID | None, more: int) -> None:
        """Count a user's running jobs, and know who runs as many as they may."""
        self._running_of[user] += more
        if user is not None and user in self._limits:
            (self._full.add if self._running_of[user] >= self._limits[user] else self._full.discard)(user)

    def _never(self, job: Waiting) -> Slot:
        """Return why a job got no place in the whole play."""
        if job.held is not None:
            why = NoEstimate(job.held.value)
        elif (job.queue, job.demand) not in self._able:
            why = NoEstimate.NO_WORKER
        else:
            why = NoEstimate.USER_LIMIT if job.user in self._full else NoEstimate.JOB_AHEAD_NOT_MEASURED
        return Slot(None, None, why)


def _kinds(line: Iterable[Waiting]) -> list[Kind]:
    """Sort those that may be claimed by what they ask for."""
    alike: dict[tuple[str, Demand], list[tuple[Turn, float | None]]] = defaultdict(list)
    for place, job in enumerate(line):
        if job.held is None:
            alike[job.queue, job.demand].append(((place, job.user), job.seconds))
    return [Kind(queue, demand, *zip(*jobs, strict=True)) for (queue, demand), jobs in alike.items()]


def _served(place: Place, kinds: Iterable[Kind]) -> Iterator[tuple[Kind, Need]]:
    for kind in kinds:
        if kind.queue in place.queues and (need := place.need(kind.demand)) is not None:
            yield kind, need
