"""When waiting jobs start: the play of the line against its rules, by examples and by hypothesis."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.demand import GIB, Demand
from models.forecast import TOLERANCE_SECONDS, Place, Running, Waiting, earliest_start, wait_reason
from models.schedule import Slot, schedule
from models.wait_reason import NoEstimate, WaitReason

ANNA, BEN, CARL = uuid4(), uuid4(), uuid4()
ON_CPU = Demand("cpu", 0, None, exclusive=False)
ALONE = Demand("cuda", 1, None, exclusive=False)
GPU_BYTES = 24 * GIB


def shared(gib: int, device: str = "cuda") -> Demand:
    return Demand(device, 1, gib * GIB, exclusive=False)


def several(gpus: int) -> Demand:
    return Demand("cuda", gpus, None, exclusive=False)


def place(gpus: int = 0, slots: int = 4, running: Sequence[Running] = (), name: str = "a") -> Place:
    return lab_of([GPU_BYTES] * gpus, slots, running, name)


def lab_of(sizes: list[int], slots: int, running: Sequence[Running] = (), name: str = "a") -> Place:
    gpus = {f"gpu-{number}": size for number, size in enumerate(sizes)}
    return Place(name, ["default"], has_gpus=bool(gpus), slots=slots, gpus=gpus, running=running)


def waiting(demand: Demand = ON_CPU, seconds: float | None = 10, user: UUID = ANNA, **changes: Any) -> Waiting:
    return Waiting(uuid4(), user, changes.pop("queue", "default"), demand, seconds, **changes)


def starts(places: list[Place], line: list[Waiting], limits: dict[UUID, int] | None = None) -> list[float | None]:
    found = schedule(places, line, limits=limits)
    return [found[job.id].starts_in for job in line]


def test_jobs_follow_each_other_through_the_slots_of_a_worker() -> None:
    line = [waiting(seconds=10), waiting(seconds=30), waiting(seconds=5), waiting(seconds=5)]
    assert starts([place(slots=2)], line) == [0, 0, 10, 15]


def test_what_runs_already_is_waited_for() -> None:
    busy = place(slots=1, running=[Running(ON_CPU, (), 7.5)])
    line = [waiting(seconds=10), waiting(seconds=1)]
    found = schedule([busy], line)
    assert [found[job.id] for job in line] == [Slot(7.5, 17.5), Slot(17.5, 18.5)]


def test_a_job_that_has_outrun_its_estimate_is_expected_to_do_so_by_as_much_again() -> None:
    busy = place(slots=1, running=[Running(ON_CPU, (), -3.0)])
    assert starts([busy], [waiting()]) == [3]


def test_small_jobs_share_a_gpu_by_memory_and_one_of_unknown_memory_waits_for_a_whole_one() -> None:
    line = [waiting(shared(10), 50), waiting(shared(10), 20), waiting(ALONE, 5), waiting(shared(4), 100)]
    assert starts([place(gpus=1)], line) == [0, 0, 50, 55]


def test_a_job_of_the_cpu_passes_one_that_waits_for_gpus_for_a_slot_comes_free_with_them() -> None:
    busy = place(gpus=1, slots=3, running=[Running(ALONE, ("gpu-0",), 60)])
    line = [waiting(ALONE, 10), waiting(seconds=1_000), waiting(seconds=1_000)]
    assert starts([busy], line) == [60, 0, 0]


def test_only_a_job_that_ends_before_the_reserved_start_passes() -> None:
    busy = place(gpus=2, running=[Running(ALONE, ("gpu-0",), 60)])
    line = [waiting(several(2), 10), waiting(ALONE, 61), waiting(ALONE, None, BEN), waiting(ALONE, 60, CARL)]
    found = schedule([busy], line)
    assert [found[job.id].starts_in for job in line] == [60, 70, 70, 0]
    assert found[line[2].id] == Slot(70, None, NoEstimate.NOT_MEASURED)


def test_nobody_passes_where_nobody_knows_when_the_reserved_job_starts() -> None:
    busy = place(gpus=2, running=[Running(ALONE, ("gpu-0",), None)])
    line = [waiting(several(2), 10), waiting(ALONE, 1), waiting(seconds=1)]
    found = schedule([busy], line)
    assert found[line[0].id] == Slot(None, None, NoEstimate.JOB_AHEAD_NOT_MEASURED)
    assert found[line[1].id] == Slot(None, None, NoEstimate.JOB_AHEAD_NOT_MEASURED)
    assert found[line[2].id].starts_in == 0


def test_a_user_at_the_limit_lets_others_by_and_goes_on_when_a_job_of_theirs_ends() -> None:
    line = [waiting(user=ANNA), waiting(user=ANNA), waiting(user=BEN, seconds=3), waiting(user=BEN)]
    assert starts([place(slots=4)], line, {ANNA: 1}) == [0, 10, 0, 0]


def test_jobs_that_run_count_for_the_limit() -> None:
    busy = place(slots=4, running=[Running(ON_CPU, (), 8, ANNA)])
    assert starts([busy], [waiting(user=ANNA), waiting(user=BEN)], {ANNA: 1}) == [8, 0]


def test_a_worker_is_held_for_one_job_and_a_job_holds_one_worker() -> None:
    labs = [place(gpus=2, name=name, running=[Running(ALONE, ("gpu-0",), 60)]) for name in "ab"]
    large, small = waiting(several(2), 10), waiting(ALONE, 500)
    assert starts(labs, [large, small]) == [60, 0], "b is not held for what a is held for"
    found = schedule(labs, [large, waiting(ALONE, 500), small], reserved={"b": large.id})
    assert found[large.id].starts_in == 60, "b is held for it already"
    larger = waiting(several(2), 10)
    assert starts(labs, [large, larger, small]) == [60, 60, 70], "each is held for one"


def test_a_job_holds_the_worker_where_it_starts_soonest_whichever_is_asked_first() -> None:
    late, soon = (
        place(gpus=2, name=name, running=[Running(ALONE, ("gpu-0",), seconds)])
        for name, seconds in (("late", 36_000), ("soon", 60))
    )
    line = [waiting(several(2), 10), waiting(ALONE, 500), waiting(ALONE, 500)]
    assert starts([late, soon], line) == [60, 0, 70], "one has the idle GPU where the first will not be"
    held = schedule([late, soon], line, reserved={"late": line[0].id})
    assert [held[job.id].starts_in for job in line] == [60, 0, 70]


def test_a_worker_that_starts_it_a_little_sooner_does_not_take_over_a_job() -> None:
    first, second = (
        place(gpus=2, name=name, running=[Running(ALONE, ("gpu-0",), seconds)])
        for name, seconds in (("first", 60), ("second", 60 - TOLERANCE_SECONDS))
    )
    line = [waiting(several(2), 10), waiting(ALONE, 58)]
    found = schedule([second, first], line, reserved={"first": line[0].id})
    assert [found[job.id].starts_in for job in line] == [58, 0], "the second worker is not kept for it"


def test_a_gpu_that_is_too_small_for_the_reserved_job_is_free_for_others() -> None:
    busy = lab_of([80 * GIB, 24 * GIB], 4, [Running(shared(60), ("gpu-0",), 60)])
    line = [waiting(shared(40), 10), waiting(shared(10), 500), waiting(shared(15), 500), waiting(ALONE, 500)]
    assert starts([busy], line) == [60, 0, 60, 500]
    assert starts([busy], [line[0], line[3], line[1]]) == [60, 0, 60]


def test_a_line_of_too_many_kinds_is_given_up_after_so_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    line = [waiting(shared(number + 1), 10 + number) for number in range(20)]
    labs = [place(gpus=1, name=name) for name in "ab"]
    assert all(slot.no_estimate is None for slot in schedule(labs, line).values())
    monkeypatch.setattr("models.schedule.MOST_STEPS", 40)
    found = schedule(labs, [*line, waiting(several(2))])
    whys = [slot.no_estimate for slot in found.values()]
    assert set(whys) == {None, NoEstimate.TOO_COMPLEX, NoEstimate.NO_WORKER}
    assert [found[job.id].starts_in for job in line[:6]] == [0] * 6
    assert found[line[-1].id] == Slot(None, None, NoEstimate.TOO_COMPLEX)
    assert NoEstimate.TOO_COMPLEX.sentence.endswith(".")


def test_a_thousand_jobs_of_a_usual_lab_are_all_played_to_their_ends() -> None:
    labs = [place(gpus=4, name=f"worker-{number}", slots=8) for number in range(20)]
    users = [uuid4() for _ in range(50)]
    demands = [ON_CPU, shared(4), shared(10), ALONE, several(2), several(4)]
    line = [waiting(demands[n * n % 6], 60.0 + n * n % 97, users[n % 50]) for n in range(1_000)]
    assert {slot.no_estimate for slot in schedule(labs, line, limits=dict.fromkeys(users, 2)).values()} == {None}


def test_a_place_kept_for_a_job_that_starts_elsewhere_is_given_to_the_next() -> None:
    busy = place(gpus=2, name="busy", running=[Running(ALONE, ("gpu-0",), 60)])
    line = [waiting(several(2), 100), waiting(ALONE, 500)]
    assert starts([busy, place(gpus=2, name="idle")], line) == [0, 0]


@pytest.mark.parametrize(
    ("job", "limits", "why"),
    [
        (waiting(held=WaitReason.QUEUE_PAUSED), {}, NoEstimate.QUEUE_PAUSED),
        (waiting(held=WaitReason.WAITS_FOR_JOBS), {}, NoEstimate.WAITS_FOR_JOBS),
        (waiting(queue="night"), {}, NoEstimate.NO_WORKER),
        (waiting(ALONE), {}, NoEstimate.NO_WORKER),
        (waiting(), {ANNA: 0}, NoEstimate.USER_LIMIT),
        (waiting(user=BEN), {}, NoEstimate.JOB_AHEAD_NOT_MEASURED),
    ],
)
def test_a_job_without_an_estimate_has_a_reason(job: Waiting, limits: dict[UUID, int], why: NoEstimate) -> None:
    unmeasured = waiting(user=BEN, seconds=None)
    assert schedule([place(slots=1)], [unmeasured, job], limits=limits)[job.id] == Slot(None, None, why)
    assert why.sentence.endswith(".")


HALF_TAKEN = Running(shared(13), ("gpu-0",), 60)
ALL_SLOTS = [Running(ON_CPU, (), 60) for _ in range(4)]


@pytest.mark.parametrize(
    ("job", "places", "why"),
    [
        (waiting(held=WaitReason.WAITS_FOR_JOBS), [place()], "waits_for_jobs"),
        (waiting(held=WaitReason.QUEUE_PAUSED), [place()], "queue_paused"),
        (waiting(queue="night"), [place()], "no_worker_for_queue"),
        (waiting(), [], "no_worker_for_queue"),
        (waiting(several(2)), [place(gpus=1)], "needs_more_gpus"),
        (waiting(ALONE), [place()], "needs_more_gpus"),
        (waiting(shared(25)), [place(gpus=1)], "needs_more_memory"),
        (waiting(ALONE), [place(gpus=1, running=[HALF_TAKEN])], "needs_more_gpus"),
        (waiting(shared(12)), [place(gpus=1, running=[HALF_TAKEN])], "needs_more_memory"),
        (waiting(shared(11)), [place(gpus=1, running=[HALF_TAKEN])], "no_free_slot"),  # it is the next
        (waiting(), [place(running=ALL_SLOTS)], "no_free_slot"),
        (waiting(ALONE), [place(gpus=1, running=ALL_SLOTS)], "no_free_slot"),
    ],
)
def test_the_reason_of_a_job_that_waits_is_what_it_lacks(job: Waiting, places: list[Place], why: str) -> None:
    reason = wait_reason(job, places, at_limit=False)
    assert reason == why
    assert reason.sentence.endswith(".")


def test_a_user_at_the_limit_waits_for_that_and_not_for_a_slot() -> None:
    assert wait_reason(waiting(), [place(running=ALL_SLOTS)], at_limit=True) is WaitReason.USER_LIMIT


def test_a_job_waits_for_a_larger_one_where_every_worker_that_it_fits_is_kept_for_another() -> None:
    job, kept, other = waiting(shared(1)), place(gpus=1), place(gpus=1, name="b")
    assert wait_reason(job, [kept], at_limit=False, reserved={"a": uuid4()}) is WaitReason.RESERVED_FOR_LARGER_JOB
    assert wait_reason(job, [kept, other], at_limit=False, reserved={"a": uuid4()}) is WaitReason.NO_FREE_SLOT
    assert wait_reason(job, [kept], at_limit=False, reserved={"a": job.id}) is WaitReason.NO_FREE_SLOT


# What follows is checked on any lab there may be: demands of every kind, GPUs of two sizes, times in whole seconds.

DEMANDS = st.one_of(
    st.just(ON_CPU),
    st.builds(shared, st.integers(1, 30), st.sampled_from(["cuda", "auto"])),
    st.builds(several, st.integers(1, 3)),
    st.builds(Demand, st.just("cuda"), st.just(1), st.integers(1, 30).map(lambda gib: gib * GIB), st.just(True)),
)
ESTIMATES = st.one_of(st.none(), st.integers(1, 50).map(float))


@st.composite
def places_with_jobs(draw: st.DrawFn, remaining: st.SearchStrategy[float | None] = ESTIMATES) -> Place:
    sizes = draw(st.lists(st.sampled_from([12 * GIB, GPU_BYTES]), max_size=3))
    lab = lab_of(sizes, draw(st.integers(1, 4)))
    for demand in draw(st.lists(DEMANDS, max_size=3)):
        for gpus in ways(lab, demand):
            more = replace(lab, running=[*lab.running, Running(demand, gpus, draw(remaining))])
            if not overcommitted(more, more.running):
                lab = more
                break
    return lab


def ways(lab: Place, demand: Demand) -> list[tuple[str, ...]]:
    """Return every choice of GPUs that the demand may be given by count."""
    if demand.gpus == 0 or (demand.device == "auto" and not lab.has_gpus):
        return [()]
    return list(permutations(lab.gpus, demand.gpus))


def overcommitted(lab: Place, running: Iterable[Running]) -> bool:
    """Tell whether these cannot run together, said as plainly as the rules are."""
    running = list(running)
    for uuid, size in lab.gpus.items():
        users = [job.demand for job in running if uuid in job.gpus]
        if len(users) > 1 and any(demand.takes_whole_gpus for demand in users):
            return True
        if sum(demand.gpu_memory_bytes or 0 for demand in users) > size:
            return True
    return len(running) > lab.slots


def fits(lab: Place, running: list[Running], demand: Demand) -> bool:
    return any(not overcommitted(lab, [*running, Running(demand, gpus, None)]) for gpus in ways(lab, demand))


@given(places_with_jobs(), DEMANDS)
def test_the_earliest_start_is_the_first_moment_at_which_it_fits(lab: Place, demand: Demand) -> None:
    moments = sorted({0.0, *(job.remaining_seconds for job in lab.running if job.remaining_seconds is not None)})
    fitting = [
        moment
        for moment in moments
        if fits(lab, [j for j in lab.running if j.remaining_seconds is None or j.remaining_seconds > moment], demand)
    ]
    assert earliest_start(lab, demand) == (fitting[0] if fitting else None)


LINES = st.lists(st.builds(waiting, DEMANDS, ESTIMATES, st.sampled_from([ANNA, BEN])), min_size=1, max_size=8)
LIMITS = st.dictionaries(st.sampled_from([ANNA, BEN]), st.integers(0, 2))


@given(places_with_jobs(), LINES, LIMITS)
def test_no_worker_is_ever_overcommitted(lab: Place, line: list[Waiting], limits: dict[UUID, int]) -> None:
    found = schedule([lab], line, limits=limits)
    started = sorted(
        (job for job in line if found[job.id].starts_in is not None), key=lambda job: _start(found[job.id])
    )
    assert _can_be_given_gpus(lab, list(lab.running), started, found)
    for user, limit in limits.items():
        for job in started:
            at_once = [
                other for other in started if other.user == user and _runs_at(found[other.id], _start(found[job.id]))
            ]
            assert len(at_once) <= limit


def _start(slot: Slot) -> float:
    assert slot.starts_in is not None
    return slot.starts_in


def _runs_at(slot: Slot, moment: float) -> bool:
    return _start(slot) <= moment and (slot.finishes_in is None or slot.finishes_in > moment)


def _can_be_given_gpus(lab: Place, running: list[Running], started: list[Waiting], found: dict[UUID, Slot]) -> bool:
    """Search for GPUs for every job at its start; `remaining_seconds` is the moment of its end."""
    if not started:
        return True
    job, slot = started[0], found[started[0].id]
    still = [one for one in running if one.remaining_seconds is None or one.remaining_seconds > _start(slot)]
    for gpus in ways(lab, job.demand):
        now_running = [*still, Running(job.demand, gpus, slot.finishes_in)]
        if not overcommitted(lab, now_running) and _can_be_given_gpus(lab, now_running, started[1:], found):
            return True
    return False


@given(places_with_jobs(), LINES)
def test_the_first_in_line_is_never_delayed_by_those_that_pass_it(lab: Place, line: list[Waiting]) -> None:
    assert schedule([lab], line)[line[0].id].starts_in == earliest_start(lab, line[0].demand)


@given(st.lists(places_with_jobs(), min_size=1, max_size=3), LINES, LIMITS)
def test_jobs_of_one_user_that_ask_for_the_same_start_in_the_order_of_the_line(
    labs: list[Place], line: list[Waiting], limits: dict[UUID, int]
) -> None:
    line = [job for one in line for job in (one, replace(one, id=uuid4()))]
    found = schedule(labs, line, limits=limits)
    for earlier, later in zip(line[::2], line[1::2], strict=True):
        start, after = found[earlier.id].starts_in, found[later.id].starts_in
        assert after is None or (start is not None and start <= after)


@given(st.lists(places_with_jobs(), min_size=1, max_size=3), LINES, LIMITS)
def test_every_job_has_a_start_and_an_end_or_the_reason_why_not(
    labs: list[Place], line: list[Waiting], limits: dict[UUID, int]
) -> None:
    found = schedule(labs, line, limits=limits)
    assert set(found) == {job.id for job in line}
    for job in line:
        slot = found[job.id]
        assert (slot.no_estimate is None) == (slot.starts_in is not None and slot.finishes_in is not None)
        if slot.finishes_in is not None:
            assert slot.finishes_in == _start(slot) + (job.seconds or 0)


@given(st.lists(places_with_jobs(st.integers(1, 50).map(float)), min_size=1, max_size=3), LINES)
def test_with_every_time_known_whoever_some_worker_could_hold_starts(labs: list[Place], line: list[Waiting]) -> None:
    line = [replace(job, seconds=job.seconds or 1.0) for job in line]
    found = schedule(labs, line)
    for job in line:
        able = any(fits(lab, [], job.demand) for lab in labs)
        assert found[job.id].no_estimate is (None if able else NoEstimate.NO_WORKER)
