"""The learning rate of every step against torch's schedulers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from models.errors import InvalidSpec
from models.spec import JobSpec
from models.training_spec import Constant, Cosine, Exponential, MultiStep, OneCycle, Schedule, Step
from worker.training.data import DeviceSplit
from worker.training.loop import fit
from worker.training.schedules import learning_rate
from worker.training.state import TrainState

BASE, STEPS_PER_EPOCH, EPOCHS = 0.3, 7, 11
STEPS = STEPS_PER_EPOCH * EPOCHS


def ours(schedule: Schedule, *, steps_per_epoch: int = STEPS_PER_EPOCH, epochs: int = EPOCHS) -> list[float]:
    steps = range(steps_per_epoch * epochs)
    return [learning_rate(schedule, BASE, step, steps_per_epoch, epochs) for step in steps]


def theirs(make: Callable[[torch.optim.Optimizer], Any], *, steps: int = STEPS, every: int = 1) -> list[float]:
    """Return the rates of a torch scheduler that is stepped after so many steps of the optimiser."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=BASE)
    scheduler = make(optimizer)
    rates: list[float] = []
    for step in range(1, steps + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step % every == 0 and step < steps:
            scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("schedule", "make"),
    [
        (Constant(), lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
        (Step(every=3, factor=0.2), lambda o: lr_scheduler.StepLR(o, 3, 0.2)),
        (Step(every=1), lambda o: lr_scheduler.StepLR(o, 1, 0.1)),
        (MultiStep(after=[8, 2, 3], factor=0.5), lambda o: lr_scheduler.MultiStepLR(o, [8, 2, 3], 0.5)),
        (MultiStep(after=[4, 4, 40]), lambda o: lr_scheduler.MultiStepLR(o, [4, 4, 40], 0.1)),
        (Exponential(factor=0.9), lambda o: lr_scheduler.ExponentialLR(o, 0.9)),
    ],
    ids=["constant", "step", "each epoch", "multi_step", "unsorted multi_step", "exponential"],
)
def test_a_schedule_by_epochs_is_the_one_of_torch(
    schedule: Schedule, make: Callable[[torch.optim.Optimizer], Any]
) -> None:
    assert ours(schedule) == pytest.approx(theirs(make, every=STEPS_PER_EPOCH), rel=1e-12)


@pytest.mark.parametrize("final_fraction", [0.0, 0.05, 1.0])
def test_a_cosine_is_the_one_of_torch_stepped_with_every_batch(final_fraction: float) -> None:
    expected = theirs(lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS, eta_min=final_fraction * BASE))
    assert ours(Cosine(final_fraction=final_fraction)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("steps_per_epoch", "epochs"), [(7, 11), (1, 2), (1, 3), (5, 1), (1, 40)])
@pytest.mark.parametrize(
    "schedule", [OneCycle(), OneCycle(rising_fraction=0.45, initial_divisor=10.0, final_divisor=100.0)], ids=str
)
def test_one_cycle_is_the_one_of_torch(schedule: OneCycle, steps_per_epoch: int, epochs: int) -> None:
    steps = steps_per_epoch * epochs
    expected = theirs(
        lambda o: lr_scheduler.OneCycleLR(
            o,
            max_lr=BASE,
            total_steps=steps,
            pct_start=schedule.rising_fraction,
            div_factor=schedule.initial_divisor,
            final_div_factor=schedule.final_divisor,
            cycle_momentum=False,
        ),
        steps=steps,
    )
    assert ours(schedule, steps_per_epoch=steps_per_epoch, epochs=epochs) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("rising_fraction", "epochs"), [(0.3, 1), (0.5, 2), (0.999, 1), (0.999, 2), (1 - 1e-16, 9)])
def test_one_cycle_over_a_handful_of_steps_has_a_rate_for_each(rising_fraction: float, epochs: int) -> None:
    rates = ours(OneCycle(rising_fraction=rising_fraction), steps_per_epoch=1, epochs=epochs)
    assert all(0 < rate <= BASE for rate in rates)


def test_a_warm_up_rises_step_by_step_and_the_schedule_takes_the_epochs_that_remain() -> None:
    warm_up = 2 * STEPS_PER_EPOCH
    rising = theirs(
        lambda o: lr_scheduler.LinearLR(o, start_factor=1 / warm_up, total_iters=warm_up - 1), steps=warm_up
    )
    assert ours(Constant(warmup_epochs=2))[warm_up - 1] == BASE
    for schedule, alone in (
        (Constant(warmup_epochs=2), Constant()),
        (Step(warmup_epochs=2, every=4), Step(every=4)),
        (Exponential(warmup_epochs=2, factor=0.5), Exponential(factor=0.5)),
        (Cosine(warmup_epochs=2, final_fraction=0.1), Cosine(final_fraction=0.1)),
    ):
        rates = ours(schedule)
        assert rates[:warm_up] == pytest.approx(rising, rel=1e-12)
        assert rates[warm_up:] == pytest.approx(ours(alone, epochs=EPOCHS - 2), rel=1e-12)


def test_epochs_that_are_named_are_those_of_the_curves_with_and_without_a_warm_up() -> None:
    warmed_up = ours(MultiStep(warmup_epochs=2, after=[5, 8], factor=0.1))
    without = ours(MultiStep(after=[5, 8], factor=0.1))
    assert warmed_up[2 * STEPS_PER_EPOCH :] == without[2 * STEPS_PER_EPOCH :]
    assert warmed_up[5 * STEPS_PER_EPOCH - 1 : 5 * STEPS_PER_EPOCH + 1] == pytest.approx([BASE, 0.1 * BASE])


def test_every_step_is_made_with_its_rate_and_an_epoch_tells_that_of_its_first(
    pictures: Callable[..., DeviceSplit], job: Callable[..., JobSpec], fresh: Callable[[JobSpec], TrainState]
) -> None:
    spec = job({"name": "mlp"}, epochs=3, batch_size=32, learning_rate=BASE, schedule={"name": "one_cycle"})
    state = fresh(spec)
    used: list[float] = []
    state.optimizer.register_step_pre_hook(lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"]))
    told = [metrics.learning_rate for metrics in fit(state, spec.training, pictures(70), None)]
    assert used == ours(OneCycle(), steps_per_epoch=3, epochs=3)
    assert told == used[::3]


@pytest.mark.parametrize("after", [[5], [3, 9]])
def test_an_epoch_named_after_or_at_the_end_of_the_warm_up_is_taken(
    job: Callable[..., JobSpec], after: list[int]
) -> None:
    job({"name": "mlp"}, schedule={"name": "multi_step", "warmup_epochs": 3, "after": after})


def test_an_epoch_named_within_the_warm_up_is_refused(job: Callable[..., JobSpec]) -> None:
    with pytest.raises(InvalidSpec, match=r"training\.schedule\.after: .*warm-up"):
        job({"name": "mlp"}, schedule={"name": "multi_step", "warmup_epochs": 3, "after": [9, 2]})
