"""How far the training got: a loss that never moved, that still falls, or that settled too high."""

import math
from collections.abc import Sequence

from models.datasets import Task
from models.result import Diagnosis, EpochMetrics
from worker.diagnosis.chance import beats_guessing
from worker.diagnosis.curves import SHORT_CURVE, Curve
from worker.diagnosis.evidence import Evidence, Figure
from worker.diagnosis.wording import number, percent

# Of the largest loss, between the extremes of all epochs. Where no weight changes (the reference case: 0.0434 at every
# epoch) rounding moves it by less than the first; dropout does by less than the second.
_CONSTANT = 1e-5
_BARELY_MOVED = 0.01
_LEARNED_R2 = 0.1  # well above the 0 of always answering the mean: then the loss fell within the first epoch

# In the last quarter of the epochs; as many again would gain about as much.
_STILL_FALLING = 0.05  # of the loss at the end
_STILL_LEARNING = 0.1  # of all that the loss has fallen: what a slow start looks like, far from any plateau
_WORTH_WAITING = 0.02  # of all that the loss has fallen: below it the rest is polish
_NOTICEABLE = 0.005  # of the loss at the end: below it the loss has settled
_AT_REST = 0.1  # of the highest learning rate: below it the schedule has ended the training on purpose

# Of what guessing leaves to learn. R2: below Cohen's (1988) bound of 0.26 for a large effect.
_POOR: dict[Task, float] = {"classification": 0.5, "regression": 0.25}


def loss_did_not_move(evidence: Evidence) -> list[Diagnosis]:
    """Fire where all training losses are the same, or nearly so and nothing was learned in the first epoch either."""
    losses = evidence.curve("train_loss").values
    if len(losses) < 2 or max(losses) <= 0:
        return []
    moved = (max(losses) - min(losses)) / max(losses)
    constant = moved < _CONSTANT
    if not constant and (len(losses) < 3 or moved >= _BARELY_MOVED or _learned(evidence)):
        return []
    advice = (
        "Nothing was trained: the optimiser does not hold this network's parameters, they are frozen, no gradient "
        "reaches them, or the learning rate is zero for all that matters."
        if constant
        else "Try a learning rate ten times as high, then a hundred times; if that does not help, look at the scaling "
        "of the inputs and for activations that are saturated or dead."
    )
    message = (
        f"The training loss did not move: it was {losses[0]:.6g} in the first epoch and {losses[-1]:.6g} in the last "
        f"of {len(losses)}. {advice}"
    )
    numbers = {"lowest_train_loss": min(losses), "highest_train_loss": max(losses), "epochs": len(losses)}
    return [
        Diagnosis(code="loss_did_not_move", level="error" if constant else "warning", message=message, evidence=numbers)
    ]


def not_converged(evidence: Evidence) -> list[Diagnosis]:
    """Fire where the validation loss (else the training loss) still falls at the end, and nothing meant it to stop."""
    if evidence.stopped_early or _at_rest(evidence.epochs):
        return []
    figure: Figure = "validation_loss" if len(evidence.curve("validation_loss")) else "train_loss"
    curve = evidence.curve(figure)
    since, fall = curve.fall_at_the_end()
    if not _falls(curve):
        return []
    name = "validation loss" if figure == "validation_loss" else "training loss"
    message = (
        f"The training has not converged: from epoch {since} to epoch {curve.epochs[-1]} the {name} still fell by "
        f"{number(fall)}, to {number(curve.values[-1])}. More epochs, or a higher learning rate, would give a better "
        "score; compare it with other runs at the same number of epochs only."
    )
    numbers = {
        "figure": figure,
        "from_epoch": since,
        "to_epoch": curve.epochs[-1],
        "fall": fall,
        "loss_at_end": curve.values[-1],
    }
    return [Diagnosis(code="not_converged", level="warning", message=message, evidence=numbers)]


def underfitting(evidence: Evidence) -> list[Diagnosis]:
    """Fire where even the training split is learned poorly, and the training loss has settled."""
    train = evidence.curve("train_loss")
    score = _training_score(evidence)
    if len(train) < SHORT_CURVE or not _settled(train) or score is None:
        return []
    guessing = _guessing(evidence)
    learned = (score - guessing) / (1 - guessing) if guessing < 1 else 1.0
    if learned >= _POOR[evidence.task]:
        return []
    found = (
        f"the training accuracy is {percent(score)} where always answering the most frequent class gets "
        f"{percent(guessing)}"
        if evidence.task == "classification"
        else f"R2 on the training split is {number(score)} where always answering the mean gets 0"
    )
    message = (
        f"The network underfits: the training loss has settled at {number(train.end)}, and {found}. Try more "
        "units or layers, less dropout or weight decay, another learning rate; if that does not help, the inputs "
        "may not say more."
    )
    name = "train_accuracy" if evidence.task == "classification" else "train_r2"
    numbers = {name: score, "by_guessing": guessing, "train_loss_at_end": train.end}
    return [Diagnosis(code="underfitting", level="warning", message=message, evidence=numbers)]


def _falls(curve: Curve) -> bool:
    """Tell whether the loss falls at the end by so much that more epochs are worth their time."""
    if _settled(curve):
        return False
    _, fall = curve.fall_at_the_end()
    # Of a curve that begins late it is not known how far it has fallen.
    learned = curve.gain if curve.epochs[0] == 1 else math.inf
    return fall >= min(_STILL_FALLING * curve.end, _STILL_LEARNING * learned)


def _settled(curve: Curve) -> bool:
    """Tell whether the loss no longer falls at the end, but for polish."""
    _, fall = curve.fall_at_the_end()
    return fall <= 0 or fall < max(_NOTICEABLE * curve.end, _WORTH_WAITING * curve.gain)


def _at_rest(epochs: Sequence[EpochMetrics]) -> bool:
    rates = [metrics.learning_rate for metrics in epochs if metrics.epoch > 0]
    return bool(rates) and rates[-1] < _AT_REST * max(rates)


def _learned(evidence: Evidence) -> bool:
    if evidence.task == "classification":
        return beats_guessing(evidence)
    return evidence.r2.train is not None and evidence.r2.train >= _LEARNED_R2


def _training_score(evidence: Evidence) -> float | None:
    """Return the training split's score; without it the better end of the curves, as dropout lowers one of them."""
    if evidence.score.train is not None or evidence.task == "regression":
        return evidence.score.train
    curves = evidence.curve("train_accuracy"), evidence.curve("validation_accuracy")
    return max((curve.end for curve in curves if len(curve)), default=None)


def _guessing(evidence: Evidence) -> float:
    """Return the training score of always giving the same answer; 0 where the classes are not known."""
    counts = evidence.train_classes.values()
    return max(counts) / sum(counts) if evidence.task == "classification" and any(counts) else 0.0
