"""Stability: a loss that jumps up and down, or a training loss that ends far above its best."""

from models.result import Diagnosis
from worker.diagnosis.curves import JUMP_FACTOR, Curve
from worker.diagnosis.evidence import Evidence
from worker.diagnosis.wording import number

_JUMPS = 3  # one or two that are made good are an accident
_JUMP_RATE = 0.02  # of the epochs: a long run may have its accidents
_JUMP_SIZE = 0.05  # of the training loss at the start: jumps of a loss near zero are large only beside itself
_OUTLYING = 4.0  # times the ninth decile: a first epoch of thousands is an explosion, not where the loss started


def unstable(evidence: Evidence) -> list[Diagnosis]:
    """Fire where a loss jumps up and down again and again, or the training loss ends far above its best."""
    train = evidence.curve("train_loss")
    if len(train) < 2:
        return []
    least = _JUMP_SIZE * _start(train)
    for name, curve in (("training", train), ("validation", evidence.curve("validation_loss"))):
        jumps = curve.jumps(least)
        if len(jumps) >= max(_JUMPS, _JUMP_RATE * len(curve)):
            return [_oscillates(name, curve, jumps)]
    diverges = train.ends_above_its_best(max(least, (JUMP_FACTOR - 1) * train.best))
    return [_diverges(train)] if diverges else []


def _start(train: Curve) -> float:
    """Return the first loss, or where that is an outlier the highest that is none."""
    ninth_decile = sorted(train.values, reverse=True)[max(1, len(train) // 10)]
    return min(train.values[0], _OUTLYING * ninth_decile)


def _oscillates(name: str, curve: Curve, jumps: list[int]) -> Diagnosis:
    largest = max(jumps, key=lambda index: curve.values[index] - curve.values[index - 1])
    before, after = curve.values[largest - 1], curve.values[largest]
    advice = "a lower learning rate, gradient clipping or larger batches"
    if name == "validation":
        advice += "; a small validation split or batch norm with small batches does the same"
    message = (
        f"The {name} loss is unstable: it jumped up and came back {len(jumps)} times in {len(curve)} epochs, at most "
        f"from {number(before)} to {number(after)} in epoch {curve.epochs[largest]}. Try {advice}."
    )
    numbers = {
        "figure": "train_loss" if name == "training" else "validation_loss",
        "jumps": len(jumps),
        "epochs_of_jumps": [curve.epochs[index] for index in jumps[:100]],
        "largest_jump_epoch": curve.epochs[largest],
        "loss_before": before,
        "loss_after": after,
    }
    return Diagnosis(code="unstable", level="warning", message=message, evidence=numbers)


def _diverges(train: Curve) -> Diagnosis:
    best_epoch = train.epochs[train.lowest]
    message = (
        f"The training loss is unstable: it was {number(train.best)} near epoch {best_epoch} and is "
        f"{number(train.end)} at the end. Try a lower learning rate, warm-up or gradient clipping."
    )
    numbers = {
        "figure": "train_loss",
        "jumps": 0,
        "best_epoch": best_epoch,
        "best_train_loss": train.best,
        "train_loss_at_end": train.end,
    }
    return Diagnosis(code="unstable", level="warning", message=message, evidence=numbers)
