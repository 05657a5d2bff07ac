"""When waiting jobs run: the line played forward over the workers, without clock or database."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from uuid import UUID

from models.demand import Demand
from models.forecast import Place, Waiting, starts_sooner
from models.kind import Kind, Kinds, Turn
from models.room import Need, Room, Stay
from models.user_limits import UserLimits
from models.wait_reason import NoEstimate

MOST_STEPS = 1_200_000  # of one play, each a kind or a job that a worker looks at


@dataclass(frozen=True)
class Slot:
    """When a waiting job starts and ends, in seconds from now; `no_estimate` says why one of the two is None."""

    starts_in: float | None
    finishes_in: float | None
    no_estimate: NoEstimate | None = None


def schedule(
    places: Sequence[Place],
    line: Sequence[Waiting],
    *,
    limits: Mapping[UUID, int] | None = None,
    reserved: Mapping[str, UUID] | None = None,
) -> dict[UUID, Slot]:
    """Play the line (in the order of claims) forward over the places; return for every job of it when it runs.

    Each place claims as a worker does: the first in line that it can hold now. For the first that it could hold but not
    now it is held, unless another place is where that starts as soon; others then pass only where they take nothing of
    what that one could use, or end before it starts. `limits` is how many jobs of a user may run at once (who is not in
    it has no limit), `reserved` the job that each place is held for already. The estimates are taken as exact, the
    order as fixed. After MOST_STEPS what has no place yet gets no estimate.
    """
    return _Play(places, line, limits or {}, reserved or {}).run()


@dataclass(frozen=True)
class _Candidate:
    """A job that a worker looks at, with what it needs there, and the GPUs that are left alone if it starts."""

    turn: Turn
    kind: Kind
    need: Need
    spared: Collection[str] = ()


@dataclass(frozen=True)
class _InVain:
    """That nothing passed a job which needs so much and starts at a moment, when so many users had come back."""

    reserved: Need
    start: float
    returns: int


@dataclass(eq=False)
class _Worker:
    """One place while the line is played: its room, what the kinds that it could hold need there, whom it is held for.

    `held_for` is a place in the line. `starts` are the moments from which needs fit, as long as the room is as it is;
    `in_vain` is its last look for jobs that pass, as long as no more is free.
    """

    room: Room
    needs: dict[Kind, Need]
    held_for: int | None = None
    starts: dict[Need, float] = field(default_factory=dict)
    in_vain: _InVain | None = None


@dataclass(frozen=True)
class _Hold:
    """That a worker is held for a job, which starts there at a moment; infinity: nobody knows."""

    worker: _Worker
    starts: float


class _Play:
    """The line played forward, from one end of a job to the next."""

    def __init__(
        self,
        places: Sequence[Place],
        line: Sequence[Waiting],
        limits: Mapping[UUID, int],
        reserved: Mapping[str, UUID],
    ) -> None:
        self._line = line
        self._now = 0.0
        self._steps = 0  # kinds and jobs that were looked at
        self._holds: dict[int, _Hold] = {}  # by the place of their job in the line
        self._slots: dict[UUID, Slot] = {}
        kinds = _kinds(line)
        self._kinds = Kinds(kinds)
        self._workers = [_Worker(place.room.copy(), dict(_served(place, kinds))) for place in places]
        self._due = set(self._workers)  # those for whom something has changed since they last claimed
        self._able = {(kind.queue, kind.demand) for worker in self._workers for kind in worker.needs}
        stays = [(worker, stay) for worker in self._workers for stay in worker.room.stays]
        self._users = UserLimits(limits, self._kinds, (stay.user for _, stay in stays))
        self._order = count()
        self._ends = [(stay.ends, next(self._order), worker, stay) for worker, stay in stays if stay.ends < inf]
        heapify(self._ends)
        self._hold_as_reserved(places, kinds, reserved)

    def run(self) -> dict[UUID, Slot]:
        """Return when each job of the line runs."""
        self._claim_all()
        while self._ends and self._steps < MOST_STEPS:
            self._go_on()
            self._claim_all()
        return self._slots | {job.id: self._never(job) for job in self._line if job.id not in self._slots}

    def _hold_as_reserved(self, places: Sequence[Place], kinds: Iterable[Kind], reserved: Mapping[str, UUID]) -> None:
        """Hold the workers for the jobs that they are held for already."""
        kind_of = {(kind.queue, kind.demand): kind for kind in kinds}
        waiting = {
            job.id: (place, kind_of[job.queue, job.demand]) for place, job in enumerate(self._line) if job.held is None
        }
        for place, worker in zip(places, self._workers, strict=True):
            job_id = reserved.get(place.name)
            if job_id not in waiting:
                continue
            held_for, kind = waiting[job_id]
            if (need := worker.needs.get(kind)) is not None:
                worker.held_for = held_for
                self._holds[held_for] = _Hold(worker, self._start_of(worker, need))

    def _claim_all(self) -> None:
        """Let one worker after the other claim what it can, until there is nothing to claim."""
        while self._due:
            for worker in self._workers:
                if worker in self._due:
                    self._due.remove(worker)
                    while worker.room.free_slots > 0 and self._steps < MOST_STEPS:
                        found = self._next_for(worker)
                        if found is None:
                            break
                        self._start(worker, found)

    def _next_for(self, worker: _Worker) -> _Candidate | None:
        """Return what this worker claims next; where the first in line does not fit, hold the worker for it."""
        blocked: _Candidate | None = None
        for head, kind in self._kinds:
            self._steps += 1
            if blocked is not None and blocked.turn < head:
                break
            need = worker.needs.get(kind)
            if need is None:
                continue
            if worker.room.fits_on_gpus(need):
                self._hold(worker, None)
                return _Candidate(head, kind, need)
            turn = self._first_not_left_to_others(worker, kind, need)
            if turn is not None and (blocked is None or turn < blocked.turn):
                blocked = _Candidate(turn, kind, need)
        self._hold(worker, blocked)
        return None if blocked is None else self._passing(worker, blocked.need)

    def _hold(self, worker: _Worker, found: _Candidate | None) -> None:
        """Hold a worker for this job alone; whatever changes by that, all others may go by."""
        place = None if found is None else found.turn[0]
        if worker.held_for not in (None, place):
            del self._holds[worker.held_for]
            self._due.update(self._workers)
        worker.held_for = place
        if found is None:
            return
        hold, before = _Hold(worker, self._start_of(worker, found.need)), self._holds.get(found.turn[0])
        if before is not None and before != hold:
            if before.worker is not worker:
                before.worker.held_for = None
            self._due.update(self._workers)
        self._holds[found.turn[0]] = hold

    def _first_not_left_to_others(self, worker: _Worker, kind: Kind, need: Need) -> Turn | None:
        """Return the first of a kind that is held for nowhere else, or would start sooner here."""
        turns = self._of_free_users(kind.waiting())
        return next((turn for turn in turns if not self._is_left_to_another(worker, turn, need)), None)

    def _is_left_to_another(self, worker: _Worker, turn: Turn, need: Need) -> bool:
        hold = self._holds.get(turn[0])
        if hold is None or hold.worker is worker:
            return False
        return not starts_sooner(self._start_of(worker, need), hold.starts)

    def _start_of(self, worker: _Worker, need: Need) -> float:
        """Return the moment from which a need fits a worker if nothing else starts there."""
        if need not in worker.starts:
            self._steps += len(worker.room.stays)
            worker.starts[need] = worker.room.fits_from(need)
        return worker.starts[need]

    def _of_free_users(self, turns: Iterable[Turn]) -> Iterator[Turn]:
        for turn in turns:
            self._steps += 1
            if not self._users.is_full(turn[1]):
                yield turn

    def _passing(self, worker: _Worker, reserved: Need) -> _Candidate | None:
        """Return the first in line that may start here before the one that this worker is held for.

        That one waits for GPUs, and a slot comes free with them: a job of the CPU takes nothing of what it needs, nor
        does one on GPUs that are too small for it.
        """
        start = self._start_of(worker, reserved)
        room_left = start - self._now if start < inf else -1.0  # without an estimate of its start, none is short enough
        spared = worker.room.usable_by(reserved)
        beside = worker.room.without(spared)
        best: _Candidate | None = None
        for head, kind in self._that_may_pass(worker, reserved, start):
            self._steps += 1
            if best is not None and best.turn < head:
                break
            need = worker.needs.get(kind)
            if need is None or not worker.room.fits_on_gpus(need):
                continue
            if beside.fits_on_gpus(need):
                return _earlier(best, _Candidate(head, kind, need, spared))
            turn = next(self._of_free_users(kind.not_longer(room_left)), None)
            if turn is not None:
                best = _earlier(best, _Candidate(turn, kind, need))
        if best is None:
            worker.in_vain = _InVain(reserved, start, len(self._users.returned))
        return best

    def _that_may_pass(self, worker: _Worker, reserved: Need, start: float) -> Iterable[tuple[Turn, Kind]]:
        """Return the kinds that are worth a look: after one in vain, those of users who have come back since."""
        last = worker.in_vain
        if last is None or (last.reserved, last.start) != (reserved, start):
            return self._kinds
        return self._kinds.of(self._users.returned[last.returns :])

    def _start(self, worker: _Worker, found: _Candidate) -> None:
        place, user = found.turn
        self._kinds.take(found.kind, found.turn)
        hold = self._holds.pop(place, None)
        if hold is not None:
            hold.worker.held_for = None
            if hold.worker is not worker:
                self._due.add(hold.worker)
        job = self._line[place]
        ends = inf if job.seconds is None else self._now + job.seconds
        stay = Stay(found.need, worker.room.without(found.spared).choose(found.need), ends, user)
        worker.room.take(stay)
        worker.starts.clear()
        self._users.count(user, 1)
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
            worker.starts.clear()
            worker.in_vain = None
            self._due.add(worker)
            if self._users.count(stay.user, -1):
                self._due.update(self._workers)  # a slot may be free for want of this user's jobs

    def _never(self, job: Waiting) -> Slot:
        """Return why a job got no place in the whole play."""
        if job.held is not None:
            why = NoEstimate(job.held.value)
        elif (job.queue, job.demand) not in self._able:
            why = NoEstimate.NO_WORKER
        elif self._steps >= MOST_STEPS:
            why = NoEstimate.TOO_COMPLEX
        else:
            why = NoEstimate.USER_LIMIT if self._users.is_full(job.user) else NoEstimate.JOB_AHEAD_NOT_MEASURED
        return Slot(None, None, why)


def _earlier(one: _Candidate | None, other: _Candidate) -> _Candidate:
    return other if one is None or other.turn < one.turn else one


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
