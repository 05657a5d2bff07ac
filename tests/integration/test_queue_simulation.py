"""A lab in virtual time: jobs of many users, claimed by the real statement, against the rules and the schedule."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from heapq import heappop, heappush
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from harness.jobs import DIGITS_MLP, a_worker, add_job, claim
from models.demand import GIB, Demand
from models.forecast import Place, Running, Waiting
from models.job import Job, Status
from models.line import waiting_line
from models.schedule import Slot, schedule
from models.settings import queue_rules
from models.share import Share
from models.user import User
from worker.allocation import allocate, offer_of
from worker.leases import end_attempt
from worker.queue import Claim

# A virtual hour is so many seconds that those of the test itself, which the database's clock adds, do not count.
HOUR = 1_000_000.0
NEVER = 1e15  # a half-life, or an age, that does not come about


@dataclass(frozen=True)
class Run:
    """A job that runs: where, on which GPUs, whose it is, and until when."""

    claim: Claim
    place: str
    user: UUID
    ends: float


@dataclass
class Lab:
    """Workers whose jobs take exactly the seconds that were estimated, and a clock that goes from end to end."""

    sessions: sessionmaker[Session]
    places: list[Place]
    now: float = 0.0
    seconds: dict[UUID, float] = field(default_factory=dict)  # of every job
    user_of: dict[UUID, UUID] = field(default_factory=dict)
    started: dict[UUID, float] = field(default_factory=dict)
    running: dict[UUID, Run] = field(default_factory=dict)
    _ends: list[tuple[float, UUID]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Register the workers, without which nothing is held for them."""
        with self.sessions.begin() as session:
            session.add_all(
                a_worker(
                    place.name,
                    slots=place.slots,
                    gpus=[{"uuid": uuid, "name": "", "memory_bytes": size} for uuid, size in place.gpus.items()],
                    lease_seconds=1e9,
                )
                for place in self.places
            )

    def users(self, *shares: dict[str, Any]) -> list[UUID]:
        """Add a user for each share."""
        with self.sessions.begin() as session:
            users = [User(name=f"simulated-{number}", role="member") for number in range(len(shares))]
            session.add_all(users)
            session.flush()
            session.add_all(Share(user_id=user.id, **share) for user, share in zip(users, shares, strict=True))
        return [user.id for user in users]

    def submit(self, user: UUID, seconds: float, *, priority: int = 0, **resources: Any) -> UUID:
        """Add a job whose time is known; it is for the CPU unless its resources say something else."""
        spec = DIGITS_MLP | {"priority": priority, "resources": {"device": "cpu"} | resources}
        with self.sessions.begin() as session:
            job = add_job(session, spec, user=user, estimated_seconds=seconds)
        self.seconds[job.id], self.user_of[job.id] = seconds, user
        return job.id

    def claim_all(self) -> None:
        """Let one worker after the other take what it can, until nobody finds anything new."""
        before = None
        while before != (before := (len(self.started), self.held())):
            for place in self.places:
                while self.claim(place):
                    pass

    def held(self) -> dict[UUID, str | None]:
        """Return the workers that are held, by the jobs that they are held for."""
        with self.sessions() as session:
            rows = session.execute(select(Job.id, Job.reserved_by).where(Job.reserved_by.is_not(None)))
            return {row.id: row.reserved_by for row in rows}

    def go_on(self) -> bool:
        """Go on to the next end of a job; return whether there was one."""
        if not self._ends:
            return False
        self.now, job_id = heappop(self._ends)
        run = self.running.pop(job_id)
        with self.sessions.begin() as session:
            job = session.get_one(Job, job_id, with_for_update=True)
            job.move(Status.SUCCEEDED)
            end_attempt(session, job_id, run.claim.attempt, job.status, ahead_seconds=self.now)
        return True

    def as_it_is(self, place: Place) -> Place:
        """Return a worker with what runs there now."""
        here = [run for run in self.running.values() if run.place == place.name]
        running = [Running(run.claim.demand, run.claim.gpus, run.ends - self.now, run.user) for run in here]
        return replace(place, running=running)

    def forecast(self, limits: dict[UUID, int]) -> dict[UUID, Slot]:
        """Return when those that wait will run, of the time of the lab."""
        with self.sessions() as session:
            line = waiting_line(queue_rules(), ahead_seconds=self.now).subquery()
            jobs = session.scalars(select(Job).join(line, line.c.id == Job.id).order_by(line.c.position)).all()
        waiting = [
            Waiting(
                job.id,
                job.user_id,
                job.queue,
                Demand(job.device, job.gpus, job.gpu_memory_bytes, job.exclusive),
                job.estimated_seconds,
            )
            for job in jobs
        ]
        places = [self.as_it_is(place) for place in self.places]
        held = {job.reserved_by: job.id for job in jobs if job.reserved_by is not None}
        return schedule(places, waiting, limits=limits, reserved=held)

    def claim(self, place: Place) -> bool:
        """Let this worker take what is next for it; return whether there was anything."""
        place = self.as_it_is(place)
        if len(place.running) >= place.slots:
            return False
        found = claim(
            self.sessions, offer_of(place), allocate=partial(allocate, place), worker=place.name, ahead_seconds=self.now
        )
        if found is None:
            return False
        job_id, ends = found.job_id, self.now + self.seconds[found.job_id]
        self.started[job_id] = self.now
        self.running[job_id] = Run(found, place.name, self.user_of[job_id], ends)
        heappush(self._ends, (ends, job_id))
        return True


@contextmanager
def rules(**settings: float) -> Iterator[None]:
    """Let the queue go by these rules."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(f"TRAINYARD_{name.upper()}", str(value))
        queue_rules.cache_clear()
        yield
    queue_rules.cache_clear()


def worker(name: str, slots: int, *gib: int) -> Place:
    """A worker with GPUs of so many GiB."""
    sizes = {f"{name}-gpu-{number}": size * GIB for number, size in enumerate(gib)}
    return Place(name, ["default"], has_gpus=bool(gib), slots=slots, gpus=sizes, running=[])


def test_a_thousand_jobs_are_shared_by_weight_within_limits_and_as_forecast(sessions: sessionmaker[Session]) -> None:
    with rules(share_half_life_seconds=NEVER, ageing_seconds=NEVER):
        lab = Lab(sessions, [worker("a", 6), worker("b", 4)])
        weights = [1.0, 2.0, 3.0, 4.0] * 5
        users = lab.users(*({"weight": weight, "max_running": None if n else 1} for n, weight in enumerate(weights)))
        rng = random.Random(6)
        for user in rng.sample(users * 50, k=1_000):
            lab.submit(user, rng.uniform(0.2, 2) * HOUR)
        longest = max(lab.seconds.values())
        left, limits, forecasts = Counter(lab.user_of.values()), {users[0]: 1}, [(0.0, lab.forecast({users[0]: 1}))]
        fair = dict(zip(users[1:], weights[1:], strict=True))
        ended = 0
        errors = []
        while True:
            before = set(lab.started)
            lab.claim_all()
            left.subtract(lab.user_of[job] for job in lab.started.keys() - before)
            assert Counter(run.user for run in lab.running.values())[users[0]] <= 1
            if all(left[user] for user in fair) and ended % 25 == 0:
                errors.append(_error_of_shares(lab, fair, longest))
            if ended in (250, 600, 900):
                forecasts.append((lab.now, lab.forecast(limits)))
            if not lab.go_on():
                break
            ended += 1
    assert ended == 1_000
    assert len(errors) > 10
    assert errors[-1] < errors[0] / 4, "the parts come closer to the weights"
    _assert_as_forecast(lab, forecasts)


def _assert_as_forecast(lab: Lab, forecasts: list[tuple[float, dict[UUID, Slot]]]) -> None:
    """Hold the starts of all that waited at some moments against what was said then; a second is for rounding."""
    for moment, slots in forecasts:
        assert len(slots) > 50
        happened = {job: lab.started[job] - moment for job in slots}
        assert {job: slot.starts_in for job, slot in slots.items()} == pytest.approx(happened, abs=1.0)


def _error_of_shares(lab: Lab, weights: dict[UUID, float], longest: float) -> float:
    """Hold what users have used, with what their running jobs will use, against their weights; return the worst error.

    Whoever is served has the smallest use per weight of all, and then at most the longest job / weight more: so each
    user's use per weight stays within the longest job (/ 1, the least weight) of that of all together.
    """
    used: dict[UUID, float] = defaultdict(float)
    for job in lab.started:
        if job not in lab.running:
            used[lab.user_of[job]] += lab.seconds[job]
    with lab.sessions() as session:
        charged = {share.user_id: share.cpu_seconds for share in session.scalars(select(Share))}
    # The seconds of real time between a claim and an end are charged as well.
    assert charged == pytest.approx({user: used[user] for user in charged}, abs=len(lab.started))
    for run in lab.running.values():
        used[run.user] += lab.seconds[run.claim.job_id]
    all_used, all_weights = sum(used[user] for user in weights), sum(weights.values())
    worst = max(abs(used[user] / weight - all_used / all_weights) for user, weight in weights.items())
    assert worst <= longest + len(lab.started)
    return worst / (all_used / all_weights) if all_used else 0.0


def test_nobody_waits_longer_than_ageing_allows(sessions: sessionmaker[Session]) -> None:
    spread, slots, longest = 3, 3, HOUR / 2
    with rules(share_half_life_seconds=NEVER, ageing_seconds=HOUR):
        lab = Lab(sessions, [worker("a", slots)])
        users = lab.users(*({} for _ in range(10)))
        rng = random.Random(7)
        for number, user in enumerate(rng.sample(users * 30, k=300)):
            priority = -spread if user == users[0] else rng.randint(-spread + 1, 0)
            lab.submit(user, longest if number < 3 else rng.uniform(0.1, 1) * longest, priority=priority)
        lab.claim_all()
        while lab.go_on():
            lab.claim_all()
    # A user is ahead of everybody after this age but of those who are as old; each of these is served at most once
    # before, for then their age is gone, and `slots` jobs start in every time of the longest.
    bound = (spread + 1) * HOUR + (len(users) / slots + 1) * longest
    for user in users:
        served = sorted(lab.started[job] for job, of in lab.user_of.items() if of == user)
        assert max(later - earlier for earlier, later in pairwise([0.0, *served])) <= bound
    lowest = [job for job, of in lab.user_of.items() if of == users[0]]
    last_of_others = max(start for job, start in lab.started.items() if job not in lowest)
    assert sum(lab.started[job] < last_of_others for job in lowest) >= last_of_others // bound > 3


def test_on_gpus_jobs_run_as_forecast_where_their_order_is_settled(sessions: sessionmaker[Session]) -> None:
    with rules(share_half_life_seconds=NEVER, ageing_seconds=NEVER):
        lab = Lab(sessions, [worker("a", 8, 24, 24, 24, 24), worker("b", 4, 24, 12), worker("c", 2)])
        users = lab.users(*({"max_running": 3 if number < 4 else None} for number in range(8)))
        limits = dict.fromkeys(users[:4], 3)
        rng = random.Random(8)
        for priority in rng.sample(range(-100, 101), k=201):  # each its own: whom shares favour makes no difference
            lab.submit(rng.choice(users), rng.uniform(0.2, 2) * HOUR, priority=priority, **_resources(rng))
        held: set[UUID] = set()
        forecasts = [(0.0, lab.forecast(limits))]
        lab.claim_all()
        while lab.go_on():
            lab.claim_all()
            running = Counter(run.user for run in lab.running.values())
            assert all(running[user] <= limit for user, limit in limits.items())
            held |= lab.held().keys()
            if len(lab.started) in (70, 140):
                forecasts.append((lab.now, lab.forecast(limits)))
    assert len(lab.started) == 201
    assert len(held) > 20
    _assert_as_forecast(lab, forecasts)


def _resources(rng: random.Random) -> dict[str, Any]:
    return rng.choice(
        [
            {"device": "cpu"},
            {"device": "cuda", "gpu_memory_gb": rng.choice([4.0, 8.0, 16.0])},
            {"device": "auto", "gpu_memory_gb": 6.0},
            {"device": "cuda"},
            {"device": "cuda", "gpus": 2},
            {"device": "cuda", "gpus": 4},
        ]
    )


ON_A_GPU: dict[str, Any] = {"device": "cuda", "exclusive": True}
ON_TWO: dict[str, Any] = {"device": "cuda", "gpus": 2}


def test_the_first_in_line_starts_where_it_can_soonest_whoever_asked_first(sessions: sessionmaker[Session]) -> None:
    lab = Lab(sessions, [worker("a", 4, 16, 16), worker("b", 4, 16, 16)])
    ada, ben = lab.users({}, {})
    for hours in (36, 6):
        lab.submit(ada, hours * HOUR, exclusive=True, device="cuda")
    for place in lab.places:
        lab.claim(place)
    large = lab.submit(ada, HOUR, **ON_TWO)
    lab.claim_all()
    assert lab.held() == {large: "b"}
    for _ in range(10):
        lab.submit(ben, 5 * HOUR, priority=-1, **ON_A_GPU)
    lab.claim_all()
    forecast = lab.forecast({})[large]
    while large not in lab.started and lab.go_on():
        lab.claim_all()
    assert (forecast.starts_in, lab.started[large]) == pytest.approx((6 * HOUR, 6 * HOUR), abs=60)


def test_no_gpu_is_idle_while_work_fits_however_many_larger_jobs_wait(sessions: sessionmaker[Session]) -> None:
    lab = Lab(sessions, [worker(f"worker-{number:02}", 4, 16, 16) for number in range(12)])
    ada, ben = lab.users({}, {})
    for place in lab.places:
        lab.submit(ada, 100 * HOUR, **ON_A_GPU)
        assert lab.claim(place)
    large = [lab.submit(ada, HOUR, **ON_TWO) for _ in lab.places]
    lab.claim_all()
    small = [lab.submit(ben, HOUR, priority=-1, **ON_A_GPU) for _ in lab.places]
    forecast = lab.forecast({})
    lab.claim_all()
    assert lab.held().keys() == set(large)
    assert {forecast[job].starts_in for job in small} == {0}
    assert lab.running.keys() >= set(small)


def test_a_gpu_that_is_too_small_for_the_first_in_line_is_not_kept_for_it(sessions: sessionmaker[Session]) -> None:
    lab = Lab(sessions, [worker("a", 4, 80, 24)])
    (ada,) = lab.users({})
    for gib in (60.0, 40.0, 10.0):
        lab.submit(ada, 9 * HOUR, device="cuda", gpu_memory_gb=gib)
    first, reserved, small = lab.seconds
    forecast = lab.forecast({})
    lab.claim_all()
    assert lab.held() == {reserved: "a"}
    assert [forecast[job].starts_in for job in (first, reserved, small)] == [0, 9 * HOUR, 0]
    assert lab.running[small].claim.gpus == ("a-gpu-1",)
