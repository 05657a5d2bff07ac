"""The order of the line on a real Postgres: who is served next, what is passed over, and what is kept for whom."""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import InternalError
from sqlalchemy.orm import Session, sessionmaker

from harness.jobs import DIGITS_MLP, ON_CPU, a_worker, add_job, claim
from models.demand import GIB, Demand
from models.forecast import Running
from models.job import Job
from models.line import Offer, Passing, enter_line, fits, head_of_line, waiting_line
from models.named_queue import NamedQueue
from models.records import Attempt
from models.settings import Settings, queue_rules
from models.share import Share
from models.user import User
from models.worker import Worker
from worker.leases import end_attempt
from worker.queue import Claim, claim_next

LEASE_SECONDS = 300


def with_gpus(*gib: int, idle: Sequence[int] = (), shared: int = 0, running: Sequence[Running] = ()) -> Offer:
    """A worker with GPUs of so many GiB, `gpu-0` and so on, of which some are idle."""
    return Offer(
        ["default"],
        free_slots=2,
        has_gpus=True,
        idle_gpu_bytes=[size * GIB for size in idle],
        shared_gpu_bytes=shared * GIB,
        gpus={f"gpu-{number}": size * GIB for number, size in enumerate(gib)},
        running=running,
    )


def whole_gpu(number: int = 0, *, seconds: float | None) -> Running:
    return Running(Demand("cuda", 1, None, exclusive=False), [f"gpu-{number}"], seconds)


class Lab:
    """Users, jobs and shares of a database that nothing else uses."""

    def __init__(self, sessions: sessionmaker[Session]) -> None:
        self.sessions = sessions
        self.users: dict[str, UUID] = {}

    def user(self, name: str) -> UUID:
        if name not in self.users:
            with self.sessions.begin() as session:
                user = User(name=name)
                session.add(user)
                session.flush()
                self.users[name] = user.id
        return self.users[name]

    def submit(self, user: str, *, age_seconds: float = 0, **columns: Any) -> UUID:
        """Queue a job of the CPU, or one with these columns."""
        owner = self.user(user)
        queued_at = func.clock_timestamp() - timedelta(seconds=age_seconds)
        spec = DIGITS_MLP | {"resources": {"device": "cpu"}}
        with self.sessions.begin() as session:
            return add_job(session, spec, user=owner, queued_at=queued_at, **columns).id

    def submit_for_gpus(self, user: str, gpus: int = 1, *, gib: int | None = None, **columns: Any) -> UUID:
        size = None if gib is None else gib * GIB
        return self.submit(user, device="cuda", gpus=gpus, gpu_memory_bytes=size, **columns)

    def share(self, user: str, *, used_ago_seconds: float = 0, served_ago_seconds: float = 0, **columns: Any) -> None:
        owner = self.user(user)
        now = func.clock_timestamp()
        with self.sessions.begin() as session:
            session.add(
                Share(
                    user_id=owner,
                    as_of=now - timedelta(seconds=used_ago_seconds),
                    served_at=now - timedelta(seconds=served_ago_seconds),
                    cpu_served_at=now - timedelta(seconds=served_ago_seconds),
                    **columns,
                )
            )

    def claim(self, offer: Offer = ON_CPU, **more: Any) -> Claim | None:
        return claim(self.sessions, offer, lease_seconds=LEASE_SECONDS, **more)

    def claimed(self, offer: Offer = ON_CPU, **more: Any) -> UUID | None:
        claim = self.claim(offer, **more)
        return None if claim is None else claim.job_id

    def drain(self, count: int) -> list[UUID | None]:
        return [self.claimed() for _ in range(count)]

    def line(self) -> list[UUID]:
        line = waiting_line(Settings(environment="development")).subquery()
        with self.sessions() as session:
            return list(session.scalars(select(line.c.id).order_by(line.c.position)))

    def reservations(self) -> dict[UUID, str]:
        with self.sessions() as session:
            rows = session.execute(select(Job.id, Job.reserved_by).where(Job.reserved_by.is_not(None)))
            return {job: worker for job, worker in rows if worker is not None}

    def add_worker(self, name: str) -> None:
        with self.sessions.begin() as session:
            session.add(a_worker(name, slots=2))


@pytest.fixture
def lab(sessions: sessionmaker[Session]) -> Lab:
    return Lab(sessions)


def test_a_higher_priority_goes_first_then_submission(lab: Lab) -> None:
    low, first, second, high = (lab.submit("ada", priority=priority) for priority in (-5, 0, 0, 7))
    assert lab.line() == [high, first, second, low]
    assert lab.drain(5) == [high, first, second, low, None]


def test_priority_goes_before_share(lab: Lab) -> None:
    lab.share("ada", cpu_seconds=1e6)
    theirs, urgent = lab.submit("ben"), lab.submit("ada", priority=1)
    assert lab.drain(2) == [urgent, theirs]


def test_among_equals_goes_first_who_has_used_less(lab: Lab) -> None:
    lab.share("ada", cpu_seconds=500)
    lab.share("ben", cpu_seconds=100)
    ada, ben, cleo = lab.submit("ada"), lab.submit("ben"), lab.submit("cleo")
    assert lab.line() == [cleo, ben, ada]
    assert lab.drain(3) == [cleo, ben, ada]


def test_a_running_job_counts_at_once_so_that_users_take_turns(lab: Lab) -> None:
    ada = [lab.submit("ada") for _ in range(3)]
    ben = [lab.submit("ben") for _ in range(3)]
    expected = [job for pair in zip(ada, ben, strict=True) for job in pair]
    assert lab.line() == expected
    assert lab.drain(6) == expected


def test_a_user_of_twice_the_weight_is_served_twice_as_often(lab: Lab) -> None:
    lab.share("ada", weight=2.0)
    jobs = {lab.submit("ada"): "ada" for _ in range(12)} | {lab.submit("ben"): "ben" for _ in range(12)}
    line = lab.line()
    first = [lab.claimed() for _ in range(9)]
    assert first == line[:9]
    assert Counter(jobs[job] for job in first if job) == {"ada": 6, "ben": 3}


def test_a_job_of_a_long_estimate_weighs_more_than_one_that_nobody_measured(lab: Lab) -> None:
    lab.submit("ada", estimated_seconds=5_000.0)
    ada = [lab.submit("ada") for _ in range(2)]
    lab.drain(1)
    ben = [lab.submit("ben") for _ in range(3)]
    assert lab.drain(5) == [*ben, *ada]


def test_what_was_used_counts_half_after_a_half_life(lab: Lab) -> None:
    half_life = queue_rules().share_half_life_seconds
    lab.share("ada", cpu_seconds=1_000, used_ago_seconds=2 * half_life)
    lab.share("ben", cpu_seconds=300)
    lab.share("cleo", cpu_seconds=1e9, used_ago_seconds=2_000 * half_life)  # a power that no double can hold
    ben, ada, cleo = lab.submit("ben"), lab.submit("ada"), lab.submit("cleo")
    assert lab.drain(3) == [cleo, ada, ben]


def test_an_attempt_that_ends_is_charged_to_its_user(lab: Lab) -> None:
    lab.share("ada", gpu_seconds=1_000, cpu_seconds=64, used_ago_seconds=queue_rules().share_half_life_seconds)
    job = lab.submit_for_gpus("ada", 2)
    assert lab.claimed(with_gpus(8, 8, idle=[8, 8])) == job
    with lab.sessions.begin() as session:
        end_attempt(session, job, 1, "failed", ahead_seconds=100)
        end_attempt(session, job, 1, "failed", ahead_seconds=900)  # it has ended
    with lab.sessions() as session:
        share = session.get_one(Share, lab.user("ada"))
        assert session.scalars(select(Attempt.gpus)).all() == [["gpu-0", "gpu-1"]]
    assert share.gpu_seconds == pytest.approx(500 + 2 * 100, abs=5)
    assert share.cpu_seconds == pytest.approx(32, abs=0.1)
    assert share.served_at is not None


def test_gpus_and_slots_of_the_cpu_are_shared_apart(lab: Lab) -> None:
    lab.share("ada", gpu_seconds=1e6)
    lab.share("ben", cpu_seconds=1e6)
    ben, ada = lab.submit("ben"), lab.submit("ada")
    assert lab.drain(2) == [ada, ben]


def test_who_is_served_on_the_cpu_grows_older_on_gpus_all_the_same(lab: Lab) -> None:
    ageing = queue_rules().ageing_seconds
    old = lab.submit_for_gpus("ada", age_seconds=2.5 * ageing)
    lab.submit_for_gpus("ben", priority=1)
    lab.submit("ada")
    assert lab.drain(1) != [old], "her job of the CPU"
    assert lab.claimed(with_gpus(8, idle=[8])) == old
    newer, other = lab.submit_for_gpus("ada", age_seconds=2.5 * ageing), lab.submit_for_gpus("cleo", priority=2)
    assert lab.claimed(with_gpus(8, idle=[8])) == other, "she was served on a GPU just now"
    assert newer != other


def test_whoever_is_not_served_for_long_overtakes_by_age(lab: Lab) -> None:
    ageing = queue_rules().ageing_seconds
    lab.share("ada", cpu_seconds=1e6, served_ago_seconds=2.5 * ageing)
    old = lab.submit("ada", age_seconds=3 * ageing)
    urgent, fresh = lab.submit("ben", priority=2), lab.submit("cleo", priority=3)
    assert lab.line() == [fresh, urgent, old], "two points: the third hour she was served"
    assert lab.drain(3) == [fresh, urgent, old]


def test_a_heap_of_old_jobs_overtakes_nobody_once_its_user_is_served(lab: Lab) -> None:
    ageing = queue_rules().ageing_seconds
    heap = [lab.submit("ada", age_seconds=10 * ageing) for _ in range(3)]
    fresh = lab.submit("ben", priority=1)
    assert lab.line() == [heap[0], fresh, *heap[1:]]
    assert lab.drain(4) == [heap[0], fresh, *heap[1:]]


def test_time_passes_for_a_simulation_that_steps_ahead(lab: Lab) -> None:
    later = 2 * queue_rules().ageing_seconds
    old, fresh = lab.submit("ada"), lab.submit("ben", priority=1, age_seconds=-later)
    assert lab.line() == [fresh, old]
    assert lab.claimed(ahead_seconds=later) == old
    with lab.sessions() as session:
        ahead = func.extract("epoch", Attempt.started_at - func.clock_timestamp())
        assert float(session.scalars(select(ahead)).one()) == pytest.approx(later, abs=60)


def test_a_user_never_runs_more_than_they_may_however_many_claim(lab: Lab) -> None:
    lab.share("ada", max_running=3)
    lab.share("ben", max_running=0)
    for _ in range(20):
        lab.submit("ada")
        lab.submit("ben")
    found = claims_of_many(lab, claimers=8)
    assert len(found) == 3
    with lab.sessions() as session:
        assert session.scalars(select(Job.user_id).where(Job.status == "running")).all() == [lab.user("ada")] * 3
    with lab.sessions.begin() as session:
        job = session.get_one(Job, found[0], with_for_update=True)
        job.cancel()
    assert lab.claimed() is None, "it stops, and holds its slot until it has"
    with lab.sessions.begin() as session:
        session.get_one(Job, found[0], with_for_update=True).end_cancelled()
    assert lab.claimed() is not None
    assert lab.claimed() is None


def test_eight_claimers_take_five_hundred_jobs_once_each(lab: Lab) -> None:
    ids = {lab.submit(f"user-{number % 7}") for number in range(500)}
    found = claims_of_many(lab, claimers=8)
    assert len(found) == 500
    assert set(found) == ids


def claims_of_many(lab: Lab, *, claimers: int) -> list[UUID]:
    """Claim from many threads until each finds nothing; return what all of them got."""
    found: list[UUID] = []
    errors: list[Exception] = []

    def take(worker: str) -> None:
        try:
            while (job := lab.claimed(worker=worker)) is not None:
                found.append(job)
        except Exception as error:  # noqa: BLE001 - shown by the test
            errors.append(error)

    threads = [threading.Thread(target=take, args=(f"worker-{number}",)) for number in range(claimers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    return found


def test_nothing_is_claimed_from_a_paused_queue(lab: Lab) -> None:
    lab.submit("ada", queue="other")
    job = lab.submit("ada")
    with lab.sessions.begin() as session:
        session.add(NamedQueue(name="default", paused_at=func.clock_timestamp()))
        session.add(NamedQueue(name="other"))
    other = lab.submit("ada", queue="other", priority=-5)
    assert lab.claimed() is None
    assert lab.line()[-1] == job, "what cannot be claimed comes last"
    both = Offer(["default", "other"], free_slots=1)
    assert [lab.claimed(both) for _ in range(3)][1:] == [other, None]
    with lab.sessions.begin() as session:
        session.execute(update(NamedQueue).values(paused_at=None))
    assert lab.claimed() == job


def test_a_job_that_waits_for_others_is_passed_over(lab: Lab) -> None:
    held, free = lab.submit("ada", unmet=1), lab.submit("ada")
    assert lab.line() == [free, held]
    assert lab.drain(2) == [free, None]


def test_what_this_worker_can_never_run_is_passed_over_however_much_of_it_there_is(lab: Lab) -> None:
    for _ in range(12):  # more than are looked at one by one
        lab.submit_for_gpus("ada", priority=9)
    mine = lab.submit("ada")
    assert lab.claimed() == mine
    assert lab.claimed() is None
    assert lab.reservations() == {}


def test_without_a_free_slot_nothing_is_claimed(lab: Lab) -> None:
    lab.submit("ada")
    assert lab.claimed(Offer(["default"], free_slots=0)) is None


demands = st.one_of(
    st.just(Demand("cpu", 0, None, exclusive=False)),
    st.builds(
        Demand,
        device=st.sampled_from(["auto", "cuda"]),
        gpus=st.integers(1, 4),
        gpu_memory_bytes=st.none() | st.integers(1, 40).map(lambda gib: gib * GIB),
        exclusive=st.booleans(),
    ),
)
sizes = st.lists(st.integers(1, 40), max_size=4).map(lambda found: sorted(found, reverse=True))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(demand=demands, idle=sizes, shared=st.integers(0, 40), has_gpus=st.booleans())
def test_what_fits_is_the_same_in_python_and_in_sql(
    lab: Lab, demand: Demand, idle: list[int], shared: int, has_gpus: bool
) -> None:
    offer = with_gpus(*idle, idle=idle, shared=shared) if has_gpus else ON_CPU
    columns: dict[str, Any] = asdict(demand)
    job = lab.submit("ada", **columns)
    # Found among the first of the user's line, and behind others by its kind.
    for others in (0, 9):
        for _ in range(others):
            lab.submit("ada", priority=1, queue="other")
        with lab.sessions.begin() as session:
            enter_line(session)
            head = head_of_line(session, offer.queues, offer.now)
        assert (head is not None) == fits(offer, demand)
        if head is not None:
            assert (head.id, head.demand) == (job, demand)
        with lab.sessions.begin() as session:
            enter_line(session)
            beside = Passing(on_cpu=0, on_gpus=0, beside=offer.now)
            passing = head_of_line(session, offer.queues, with_gpus(*[80] * 4).at_most, passing=beside)
        on_cpu = demand.gpus == 0
        assert (passing is not None) == (has_gpus and not on_cpu and fits(offer, demand)), "whatever it takes"
    with lab.sessions.begin() as session:
        session.execute(delete(Job))


def test_the_first_that_does_not_fit_now_gets_a_reservation_and_smaller_ones_do_not_delay_it(lab: Lab) -> None:
    large = lab.submit_for_gpus("ada", 2, priority=5)
    unknown = lab.submit_for_gpus("ben", gib=1, priority=4)
    late = lab.submit_for_gpus("ben", gib=1, priority=3, estimated_seconds=101.0)
    short = lab.submit_for_gpus("ben", gib=1, priority=2, estimated_seconds=99.0)
    on_cpu = lab.submit("ben", priority=1)
    half_busy = with_gpus(8, 8, idle=[8], shared=8, running=[whole_gpu(seconds=100.0)])
    assert lab.claimed(half_busy) == short
    with lab.sessions() as session:
        row = session.get_one(Job, large)
        in_seconds = session.scalar(
            select(func.extract("epoch", Job.reserved_for - func.clock_timestamp())).where(Job.id == large)
        )
    assert row.reserved_by == "a"
    assert float(in_seconds or 0) == pytest.approx(100, abs=30)
    assert [lab.claimed(half_busy) for _ in range(2)] == [on_cpu, None]
    both_idle = with_gpus(8, 8, idle=[8, 8], shared=8)
    assert [lab.claimed(both_idle) for _ in range(3)] == [large, unknown, late]
    assert lab.reservations() == {}


def test_a_long_job_has_a_gpu_that_is_too_small_for_the_reserved_one(lab: Lab) -> None:
    sharer = Running(Demand("cuda", 1, 60 * GIB, exclusive=False), ["gpu-0"], 100.0)
    offer = with_gpus(80, 24, idle=[24], shared=24, running=[sharer])
    large = lab.submit_for_gpus("ada", gib=40, priority=9)
    wide = lab.submit_for_gpus("ben", gib=20, priority=8, estimated_seconds=1e6)  # it fits on the large one alone
    alone = lab.submit_for_gpus("ben", gib=24, exclusive=True, priority=7)
    sharing = lab.submit_for_gpus("ben", gib=10, priority=6, estimated_seconds=1e6)
    for expected in (wide, alone, sharing):
        claim = lab.claim(offer)
        assert claim is not None
        assert (claim.job_id, claim.gpus) == (expected, ("gpu-1",))
    assert lab.reservations() == {large: "a"}
    taken = with_gpus(80, 24, shared=20, running=[sharer, whole_gpu(1, seconds=None)])
    lab.submit_for_gpus("ben", gib=10, estimated_seconds=101.0)
    assert lab.claimed(taken) is None, "it would have what the reserved one waits for"
    short = lab.submit_for_gpus("ben", gib=10, estimated_seconds=99.0)
    assert lab.claimed(taken) == short


def test_nobody_passes_a_reserved_job_on_gpus_while_its_start_is_unknown(lab: Lab) -> None:
    large = lab.submit_for_gpus("ada", 2, priority=5)
    lab.submit_for_gpus("ben", gib=1, estimated_seconds=1.0)
    on_cpu = lab.submit("ben")
    half_busy = with_gpus(8, 8, idle=[8], shared=8, running=[whole_gpu(seconds=None)])
    assert [lab.claimed(half_busy) for _ in range(2)] == [on_cpu, None]
    with lab.sessions() as session:
        row = session.get_one(Job, large)
    assert (row.reserved_by, row.reserved_for) == ("a", None)


def test_a_worker_is_held_for_one_job_alone_and_lets_go_of_one_that_is_not_first_any_more(lab: Lab) -> None:
    busy = with_gpus(8, running=[whole_gpu(seconds=100.0)])
    first = lab.submit_for_gpus("ada")
    assert lab.claimed(busy) is None
    assert lab.reservations() == {first: "a"}
    urgent = lab.submit_for_gpus("ben", priority=1)
    assert lab.claimed(busy) is None
    assert lab.reservations() == {urgent: "a"}
    with lab.sessions.begin() as session:
        session.get_one(Job, urgent, with_for_update=True).cancel()
    assert lab.reservations() == {}, "what has left the queue is not held for"
    assert lab.claimed(busy) is None
    assert lab.reservations() == {first: "a"}
    assert lab.claimed(Offer(["default"], free_slots=1)) is None
    assert lab.reservations() == {}, "this worker could not run it any more"


def test_a_job_is_held_for_by_one_worker_and_may_start_on_any(lab: Lab) -> None:
    lab.add_worker("a")
    lab.add_worker("b")
    busy = with_gpus(8, running=[whole_gpu(seconds=100.0)])
    first, second = lab.submit_for_gpus("ada"), lab.submit_for_gpus("ben")
    assert lab.claimed(busy, worker="a") is None
    assert lab.claimed(busy, worker="b") is None
    assert lab.reservations() == {first: "a", second: "b"}
    assert lab.claimed(with_gpus(8, idle=[8], shared=8), worker="b") == first
    assert lab.reservations() == {}


@pytest.mark.parametrize("ahead_seconds", [0.0, 1e6])
def test_a_job_is_held_for_where_it_starts_soonest(lab: Lab, ahead_seconds: float) -> None:
    job = lab.submit_for_gpus("ada")

    def holder_after_a_claim_of(worker: str, *, free_in: float | None) -> str:
        busy = with_gpus(8, running=[whole_gpu(seconds=free_in)])
        assert lab.claimed(busy, worker=worker, ahead_seconds=ahead_seconds) is None
        return lab.reservations()[job]

    for name in "abcd":
        lab.add_worker(name)
    assert holder_after_a_claim_of("a", free_in=None) == "a"
    assert holder_after_a_claim_of("b", free_in=None) == "a", "nobody knows where it is sooner"
    assert holder_after_a_claim_of("b", free_in=36_000) == "b"
    assert holder_after_a_claim_of("c", free_in=35_999) == "b", "not worth a change"
    assert holder_after_a_claim_of("d", free_in=60) == "d"
    assert holder_after_a_claim_of("b", free_in=36_000) == "d"


@pytest.mark.parametrize(("late_seconds", "holder"), [(600, "a"), (7_200, "b")])
def test_a_start_that_is_late_is_expected_as_much_later_and_looked_for_elsewhere(
    lab: Lab, late_seconds: float, holder: str
) -> None:
    for name in "ab":
        lab.add_worker(name)
    large = lab.submit_for_gpus("ada", gpus=2)
    assert lab.claimed(with_gpus(8, 8, running=[whole_gpu(seconds=60)], idle=[8], shared=8), worker="a") is None
    small = lab.submit_for_gpus("ben", priority=-1, estimated_seconds=100_000)
    half_free = with_gpus(8, 8, running=[whole_gpu(seconds=3_600)], idle=[8], shared=8)
    claimed = lab.claimed(half_free, worker="b", ahead_seconds=60 + late_seconds)
    assert claimed == (small if holder == "a" else None), "what is reserved is not given away"
    assert lab.reservations() == {large: holder}


def test_the_line_of_the_gpus_and_that_of_the_cpu_do_not_hold_each_other_up(lab: Lab) -> None:
    lab.add_worker("a")
    with lab.sessions.begin() as session:
        session.execute(update(Worker).values(gpus=[{}]))
    lab.share("ada", gpu_seconds=1e6)
    lab.share("ben", cpu_seconds=1e3)
    on_a_gpu = lab.submit_for_gpus("ada")
    first, second = lab.submit("ada"), lab.submit("ben")
    line = lab.line()
    assert line.index(first) < line.index(second)
    assert set(line) == {on_a_gpu, first, second}
    assert lab.drain(2) == [first, second]


def test_more_jobs_than_are_tried_that_wait_for_other_workers_hide_nothing_behind_them(lab: Lab) -> None:
    busy = with_gpus(8, running=[whole_gpu(seconds=100.0)])
    names = [f"worker-{number}" for number in range(12)]
    large = [lab.submit_for_gpus("ada", priority=1) for _ in names]
    for name in names:
        lab.add_worker(name)
        assert lab.claimed(busy, worker=name) is None
    assert lab.reservations() == dict(zip(large, names, strict=True))
    small = [lab.submit("ben") for _ in names]
    assert [lab.claimed(busy, worker=name) for name in names] == small
    lab.add_worker("idle")
    assert lab.claimed(with_gpus(8, idle=[8], shared=8), worker="idle") == large[0], "it starts where it can"


@pytest.mark.parametrize(
    "change",
    [
        {"heartbeat_at": func.clock_timestamp() - timedelta(seconds=31)},
        {"stopped_at": func.clock_timestamp()},
        {"draining_since": func.clock_timestamp()},
        None,
    ],
    ids=["silent", "stopped", "draining", "unknown"],
)
def test_the_reservation_of_a_worker_that_takes_no_more_jobs_is_dropped(
    lab: Lab, change: dict[str, Any] | None
) -> None:
    lab.add_worker("a")
    busy = with_gpus(8, running=[whole_gpu(seconds=100.0)])
    job = lab.submit_for_gpus("ada")
    assert lab.claimed(busy, worker="a") is None
    assert lab.claimed(worker="b") is None
    assert lab.reservations() == {job: "a"}, "it is there as long as its worker is"
    with lab.sessions.begin() as session:
        if change is None:
            session.execute(delete(Worker))
        else:
            session.execute(update(Worker).values(change))
    assert lab.claimed(worker="b") is None
    assert lab.reservations() == {}
    assert lab.claimed(busy, worker="b") is None
    assert lab.reservations() == {job: "b"}


def test_a_claimer_that_is_suspended_in_its_transaction_does_not_block_the_lab_for_long(lab: Lab) -> None:
    job = lab.submit("ada")
    began = threading.Event()
    outcome: list[BaseException] = []

    def claim_and_sleep() -> None:
        try:
            with lab.sessions.begin() as session:
                claim_next(session, worker="sleeper", offer=ON_CPU, allocate=lambda *_: (), lease_seconds=LEASE_SECONDS)
                began.set()
                time.sleep(7)  # longer than a worker's transaction may be idle
                session.execute(select(1))
        except InternalError as error:
            outcome.append(error)

    sleeper = threading.Thread(target=claim_and_sleep)
    sleeper.start()
    began.wait()
    assert lab.claimed(worker="b") == job, "within the time that a lock is waited for"
    sleeper.join()
    assert "idle-in-transaction" in str(outcome[0])
    with lab.sessions() as session:
        assert session.scalars(select(Attempt.worker)).all() == ["b"]


def test_the_line_puts_all_users_in_the_order_of_their_claims(lab: Lab) -> None:
    for number in range(40):
        seconds = [None, 50.0, 700.0, 4_000.0][number % 4]
        lab.submit(f"user-{number % 5}", priority=number % 3, estimated_seconds=seconds)
    lab.share("user-1", weight=3.0, cpu_seconds=900)
    lab.share("user-2", weight=0.5, cpu_seconds=10)
    line = lab.line()
    assert lab.drain(40) == line
