"""Which running job yields to a waiting one of higher priority: the lowest, of equals the newest, or none."""

from uuid import UUID

import pytest

from models.demand import GIB, Demand
from models.forecast import Place, Running
from worker.preemption import Holder, Wanting, who_yields

ON_CPU = Demand("cpu", 0, None, exclusive=False)
ON_GPU = Demand("cuda", 1, None, exclusive=False)
TWO_GPUS = Demand("cuda", 2, None, exclusive=False)


def wanting(priority: int, demand: Demand = ON_CPU, queue: str = "default") -> Wanting:
    return Wanting(UUID(int=99), priority, queue, demand)


def holder(number: int, priority: int, *, seconds: float = 10, place: str = "w", gpus: tuple[str, ...] = ()) -> Holder:
    demand = ON_GPU if gpus else ON_CPU
    return Holder(UUID(int=number), priority, place, seconds, Running(demand, gpus, None))


def place(*holders: Holder, slots: int, name: str = "w", gpus: int = 0, queue: str = "default") -> Place:
    running = [each.running for each in holders if each.place == name]
    sizes = {f"gpu-{number}": 8 * GIB for number in range(gpus)}
    return Place(name, [queue], bool(gpus), slots, sizes, running)


def chosen(job: Wanting, holders: list[Holder], *places: Place) -> int | None:
    found = who_yields(job, places, holders)
    return None if found is None else found.int


def test_the_lowest_priority_yields_and_of_equals_the_one_that_began_last() -> None:
    holders = [holder(1, 5), holder(2, 0, seconds=90), holder(3, 0, seconds=20)]
    assert chosen(wanting(10), holders, place(*holders, slots=3)) == 3


@pytest.mark.parametrize("priority", [-1, 0])
def test_nobody_yields_to_an_equal_or_a_lower_priority(priority: int) -> None:
    holders = [holder(1, 0)]
    assert chosen(wanting(priority), holders, place(*holders, slots=1)) is None


def test_nobody_yields_where_the_job_fits_anyway_or_not_even_then() -> None:
    holders = [holder(1, 0)]
    assert chosen(wanting(10), holders, place(*holders, slots=2)) is None
    assert chosen(wanting(10, ON_GPU), holders, place(*holders, slots=1)) is None
    assert chosen(wanting(10, queue="other"), holders, place(*holders, slots=1)) is None


def test_who_holds_the_gpu_yields_not_who_holds_a_slot() -> None:
    holders = [holder(1, -5), holder(2, 0, gpus=("gpu-0",))]
    assert chosen(wanting(10, ON_GPU), holders, place(*holders, slots=4, gpus=1)) == 2


def test_two_are_not_stopped_for_one() -> None:
    holders = [holder(1, 0, gpus=("gpu-0",)), holder(2, 0, gpus=("gpu-1",))]
    assert chosen(wanting(10, TWO_GPUS), holders, place(*holders, slots=4, gpus=2)) is None


def test_one_that_already_stops_is_not_asked_and_its_slot_is_not_free_yet() -> None:
    stopping, other = holder(1, -5), holder(2, 0)
    assert chosen(wanting(10), [other], place(stopping, other, slots=2)) == 2
