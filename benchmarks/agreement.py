"""Whether the loops do the same: the losses of the same steps from the same weights, in the same order of images."""

from statistics import fmean

from benchmarks import floor, ours, textbook
from benchmarks.setting import Setting

_STEPS = 2


def agreement(setting: Setting, with_lightning: bool) -> dict[str, float]:
    """Return by loop how far its losses are from ours, at most, as a fraction of ours.

    The mean over the first steps where batches differ; for the floor each step on one batch against epochs of ours over
    just that batch. Rounding differs with the memory format and the order of sums, and grows with the steps.
    """
    samples = min(setting.images.samples, _STEPS * setting.row.batch_size)
    (mean,) = ours.losses_of_epochs(setting, samples, 1)
    order = ours.order_of_first_epoch(setting, samples)
    network, optimizer = textbook.student_network(setting)
    batches = textbook.student_loader(setting, 0, order)
    by_textbook = textbook.train(network, optimizer, batches, setting.device)
    found = {"textbook": _distance([fmean(by_textbook.losses)], [mean])}
    if with_lightning:
        from benchmarks import lightning_loop  # an extra that may not be installed

        by_lightning = lightning_loop.train(setting, batches, len(batches))
        found["Lightning"] = _distance([fmean(by_lightning.losses)], [mean])
    one_batch = ours.losses_of_epochs(setting, setting.row.batch_size, _STEPS)
    found["floor"] = _distance(floor.losses_of_floor(setting, _STEPS), one_batch)
    return found


def _distance(losses: list[float], expected: list[float]) -> float:
    return max(abs(loss - wanted) / wanted for loss, wanted in zip(losses, expected, strict=True))
