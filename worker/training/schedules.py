"""The learning rate of a step, as a pure function of its number: nothing to save, nothing to restore."""

import math

from models.training_spec import Constant, Cosine, Exponential, MultiStep, OneCycle, Schedule, Step


def learning_rate(schedule: Schedule, base: float, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Return the learning rate of one step; steps count from 0 over the whole training.

    `base` is the optimiser's rate. The warm-up ends on it with its last step, and the schedule takes the epochs that
    remain; `multi_step` alone names its epochs as the curves do, the warm-up counted. Formulas are those of
    torch.optim.lr_scheduler: constant, step, multi_step and exponential change at the borders of epochs, cosine and
    one_cycle with every step.
    """
    if isinstance(schedule, OneCycle):
        return _one_cycle(schedule, base, step, steps_per_epoch * epochs)
    warm_up_steps = schedule.warmup_epochs * steps_per_epoch
    if step < warm_up_steps:
        return base * (step + 1) / warm_up_steps
    if isinstance(schedule, Cosine):
        progress = (step - warm_up_steps) / (steps_per_epoch * epochs - warm_up_steps)
        return _half_cosine(base, schedule.final_fraction * base, progress)
    return base * _factor(schedule, step // steps_per_epoch)


def _factor(schedule: Constant | Step | MultiStep | Exponential, epochs_done: int) -> float:
    """Return what the rate is multiplied by once so many epochs of the training are done, the warm-up counted."""
    since_warm_up = epochs_done - schedule.warmup_epochs
    if isinstance(schedule, Step):
        return schedule.factor ** (since_warm_up // schedule.every)
    if isinstance(schedule, MultiStep):
        return schedule.factor ** sum(epoch <= epochs_done for epoch in schedule.after)
    if isinstance(schedule, Exponential):
        return schedule.factor**since_warm_up
    return 1.0


def _one_cycle(schedule: OneCycle, base: float, step: int, steps: int) -> float:
    """Return the rate of OneCycleLR with its `three_phase` and `cycle_momentum` off (Smith and Topin, 2018)."""
    lowest = base / schedule.initial_divisor
    top, last = schedule.rising_fraction * steps - 1, steps - 1
    if step < top:
        return _half_cosine(lowest, base, step / top)
    # With so few steps that the top lies at the end there is no way down to divide by.
    progress = (step - top) / (last - top) if last > top else 0.0
    return _half_cosine(base, lowest / schedule.final_divisor, progress)


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * progress))
