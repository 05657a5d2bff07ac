"""Which GPUs a job gets: no memory twice, nobody beside a job that has its GPU alone, and tightly packed."""

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.demand import GIB, Demand
from models.forecast import Place, Running
from models.line import fits
from worker.allocation import allocate, offer_of, slots_within, threads_of_each

ON_CPU = Demand("cpu", 0, None, exclusive=False)


def sharing(gib: float, device: str = "cuda") -> Demand:
    return Demand(device, 1, round(gib * GIB), exclusive=False)


def whole(gpus: int = 1, gib: int | None = None, *, exclusive: bool = False) -> Demand:
    return Demand("cuda", gpus, None if gib is None else gib * GIB, exclusive=exclusive)


def place(*gib: int, running: Sequence[Running] = (), slots: int = 16) -> Place:
    """A worker with GPUs of so many GiB: `gpu-0`, `gpu-1`, ..."""
    gpus = {f"gpu-{number}": size * GIB for number, size in enumerate(gib)}
    return Place("a", ["default"], has_gpus=bool(gpus), slots=slots, gpus=gpus, running=running)


def on(*gpus: int, demand: Demand) -> Running:
    return Running(demand, tuple(f"gpu-{number}" for number in gpus), None)


def test_a_job_joins_the_fullest_gpu_that_still_holds_it() -> None:
    running = [on(0, demand=sharing(4)), on(1, demand=sharing(10)), on(2, demand=sharing(15))]
    assert allocate(place(16, 16, 16, 16, running=running), sharing(5)) == ("gpu-1",)


def test_no_idle_gpu_is_opened_where_another_will_do_however_small_it_is() -> None:
    running = [on(0, demand=sharing(4))]
    assert allocate(place(80, 8, running=running), sharing(6)) == ("gpu-0",)
    assert allocate(place(80, 8, 16), sharing(6)) == ("gpu-1",), "the smallest idle one that holds it"


@pytest.mark.parametrize("alone", [whole(), whole(gib=4, exclusive=True), whole(2)])
def test_a_job_that_shares_with_nobody_gets_the_largest_idle_gpus(alone: Demand) -> None:
    running = [on(1, demand=sharing(1))]
    assert allocate(place(16, 80, 24, 24, running=running), alone) == ("gpu-2", "gpu-3")[: alone.gpus]


def test_nobody_joins_a_job_that_has_its_gpu_alone_though_memory_is_left() -> None:
    assert allocate(place(80, running=[on(0, demand=whole(gib=1, exclusive=True))]), sharing(1)) is None
    assert allocate(place(80, running=[on(0, demand=whole())]), sharing(1)) is None


def test_a_job_for_two_gpus_waits_until_two_are_idle() -> None:
    running = [on(0, demand=sharing(1))]
    assert allocate(place(16, 16, running=running), whole(2)) is None
    assert allocate(place(16, 16, 16, running=running), whole(2)) == ("gpu-1", "gpu-2")


def test_a_job_for_any_device_takes_a_gpu_where_there_is_one_else_the_cpu() -> None:
    assert allocate(place(16), sharing(1, "auto")) == ("gpu-0",)
    assert allocate(place(), sharing(1, "auto")) == ()
    assert allocate(place(), sharing(1)) is None
    assert allocate(place(16), ON_CPU) == ()


def test_a_worker_without_a_free_slot_takes_nothing() -> None:
    assert allocate(place(16, slots=1, running=[on(demand=ON_CPU)]), ON_CPU) is None


demands = st.one_of(
    st.just(ON_CPU),
    st.builds(
        Demand,
        device=st.sampled_from(["auto", "cuda"]),
        gpus=st.integers(1, 3),
        gpu_memory_bytes=st.none() | st.integers(GIB, 90 * GIB) | st.sampled_from([8 * GIB, 16 * GIB, 80 * GIB]),
        exclusive=st.booleans(),
    ),
)
hosts = st.lists(st.sampled_from([8, 16, 16, 80]), max_size=4)


@st.composite
def days(draw: st.DrawFn) -> tuple[Place, Demand]:
    """A worker after jobs have started on it as they were allocated, and ended, and what comes next."""
    sizes, slots = draw(hosts), draw(st.integers(1, 6))
    running: list[Running] = []
    for demand in draw(st.lists(demands, max_size=10)):
        got = allocate(place(*sizes, running=running, slots=slots), demand)
        if got is not None:
            running.append(Running(demand, got, None))
        elif draw(st.booleans()) and running:
            running.pop(draw(st.integers(0, len(running) - 1)))
    return place(*sizes, running=running, slots=slots), draw(demands)


@given(days())
def test_no_memory_is_given_twice_and_nobody_shares_with_a_job_that_is_alone(day: tuple[Place, Demand]) -> None:
    worker, _ = day
    users = Counter(uuid for job in worker.running for uuid in job.gpus)
    for uuid, size in worker.gpus.items():
        there = [job.demand for job in worker.running if uuid in job.gpus]
        assert sum(demand.gpu_memory_bytes or 0 for demand in there) <= size
        assert users[uuid] == 1 or not any(demand.takes_whole_gpus for demand in there)
    assert len(worker.running) <= worker.slots


@given(days())
def test_a_job_that_fits_beside_others_opens_no_idle_gpu(day: tuple[Place, Demand]) -> None:
    worker, demand = day
    got = allocate(worker, demand)
    used = {uuid for job in worker.running for uuid in job.gpus}
    if got and not demand.takes_whole_gpus and not used.issuperset(got):
        for uuid in used:
            there = [job.demand for job in worker.running if uuid in job.gpus]
            left = worker.gpus[uuid] - sum(other.gpu_memory_bytes or 0 for other in there)
            assert left < (demand.gpu_memory_bytes or 0) or any(other.takes_whole_gpus for other in there)


@given(days())
def test_what_the_line_says_of_an_offer_is_what_the_allocation_does(day: tuple[Place, Demand]) -> None:
    worker, demand = day
    assert fits(offer_of(worker), demand) == (allocate(worker, demand) is not None)


@given(st.integers(1, 256), st.integers(1, 256))
def test_all_jobs_together_never_have_more_threads_than_there_are_cores(cores: int, wanted: int) -> None:
    slots = slots_within(cores, wanted)
    threads = threads_of_each(cores, slots)
    assert threads >= 1
    assert slots * threads <= cores
    assert slots == wanted or wanted > cores, "no slot is lost without need"


def test_more_slots_than_cores_are_refused_their_threads() -> None:
    with pytest.raises(ValueError, match="3 jobs on 2 cores"):
        threads_of_each(cores=2, slots=3)
