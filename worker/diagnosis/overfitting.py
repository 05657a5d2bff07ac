"""Overfitting: a validation loss that has turned, or a gap between what was trained on and what was held out."""

import math
from dataclasses import dataclass
from statistics import median
from typing import Any

from models.datasets import Task
from models.result import Diagnosis, Level
from worker.diagnosis.curves import SHORT_CURVE, Curve
from worker.diagnosis.evidence import Evidence
from worker.diagnosis.wording import number, percent

# Of the lowest level. Prechelt (1998) stops a training at 5 % at the latest; a verdict needs more than a stop.
_TURNED = 0.10
_ONSET = 0.05  # of the lowest level: Prechelt's largest threshold
_SEVERELY_TURNED = 0.50  # of the lowest level; it decides only where there is no score
_WORTH_A_WORD = 0.02  # of all that the loss has fallen: 0.05 to 0.06 after a start at 2.3 harms nobody
# Points of accuracy; R2 of a small test split varies more (0.07 with 100 samples, Olkin and Finn 1995).
_WIDE_GAP: dict[Task, float] = {"classification": 0.10, "regression": 0.20}
_SEVERE_GAP: dict[Task, float] = {"classification": 0.25, "regression": 0.50}
_STANDARD_ERRORS = 3.0  # that a gap must exceed, where the size of the held-out split is known

_REMEDIES = "dropout, weight decay, a smaller network or more data"


@dataclass(frozen=True)
class Turn:
    """A validation loss that has risen for good while the training loss fell; levels are free of outliers."""

    best_epoch: int
    best_loss: float
    best_level: float
    end_level: float
    onset_epoch: int
    train_at_best: float
    train_at_end: float


@dataclass(frozen=True)
class Gap:
    """The score of the training split and of the split held out, `split`, at the end."""

    split: str
    train: float
    held_out: float

    @property
    def size(self) -> float:
        """How much better the training split does; an R2 below 0 counts as 0, nothing carried over."""
        return self.train - max(self.held_out, 0.0)


def overfitting(evidence: Evidence) -> list[Diagnosis]:
    """Fire where the validation loss has turned, or the score at the end is much worse on the split held out."""
    turn, gap = _turn(evidence), _gap(evidence)
    wide = gap is not None and gap.size >= _WIDE_GAP[evidence.task] and not _may_be_luck(gap, evidence)
    if turn is None and not wide:
        return []
    kept = turn is not None and evidence.weights_epoch is not None and evidence.weights_epoch < turn.onset_epoch
    sentences = [_course(turn) if turn else "The network overfits."]
    if gap:
        sentences.append(_apart(gap, evidence.task))
    remedies = f"augmentation, {_REMEDIES}" if evidence.images else _REMEDIES
    sentences.append(_advice(turn, evidence.weights_epoch if kept else None, remedies))
    level: Level = "warning" if wide else "info"
    if turn and not kept:
        level = _level(turn, gap, evidence.task)
    return [
        Diagnosis(code="overfitting", level=level, message=" ".join(sentences), evidence=_numbers(evidence, turn, gap))
    ]


def _turn(evidence: Evidence) -> Turn | None:
    train, validation = evidence.curves("train_loss", "validation_loss")
    if len(validation) < SHORT_CURVE:
        return None
    levels = validation.levels(3)
    best = levels.index(min(levels))
    if not validation.ends_above_its_best(max(_TURNED * levels[best], _WORTH_A_WORD * validation.gain)):
        return None
    if train.end >= median(train.values[best : best + 3]):
        return None  # the training split fares no better: that is no overfitting
    return Turn(
        best_epoch=validation.epochs[validation.lowest],
        best_loss=validation.values[validation.lowest],
        best_level=levels[best],
        end_level=validation.end,
        onset_epoch=validation.stays_above((1 + _ONSET) * levels[best]),
        train_at_best=train.values[validation.lowest],
        train_at_end=train.end,
    )


def _gap(evidence: Evidence) -> Gap | None:
    """Return the gap as measured at the end, else as the curves end; None where neither is known."""
    score = evidence.score
    if score.train is not None and score.test is not None:
        return Gap("test", score.train, score.test)
    if score.train is not None and score.validation is not None:
        return Gap("validation", score.train, score.validation)
    train, validation = evidence.curves("train_accuracy", "validation_accuracy")
    return Gap("validation", train.end, validation.end) if len(validation) else None


def _may_be_luck(gap: Gap, evidence: Evidence) -> bool:
    """Tell whether so few samples were held out that the gap may be theirs alone."""
    samples = evidence.samples.get(gap.split, sum(evidence.test_classes.values()) if gap.split == "test" else 0)
    if not samples:
        return False
    if evidence.task == "classification":
        deviation = math.sqrt(gap.held_out * (1 - gap.held_out))
    else:
        deviation = max(2 * math.sqrt(max(score, 0.0)) * (1 - score) for score in (gap.train, gap.held_out))
    return gap.size <= _STANDARD_ERRORS * deviation / math.sqrt(samples)


def _level(turn: Turn, gap: Gap | None, task: Task) -> Level:
    if gap is None:
        return "error" if turn.end_level >= (1 + _SEVERELY_TURNED) * turn.best_level else "warning"
    if gap.size >= _SEVERE_GAP[task]:
        return "error"
    return "warning" if gap.size >= _WIDE_GAP[task] else "info"


def _course(turn: Turn) -> str:
    return (
        f"The network overfits: the validation loss was lowest after epoch {turn.best_epoch}, "
        f"{number(turn.best_loss)}, and is about {number(turn.end_level)} at the end, while the training loss "
        f"went on falling from {number(turn.train_at_best)} to {number(turn.train_at_end)}."
    )


def _apart(gap: Gap, task: Task) -> str:
    if task == "classification" and gap.size <= 0:
        return (
            f"The {gap.split} accuracy of {percent(gap.held_out)} has not suffered: training has {percent(gap.train)}."
        )
    if task == "classification":
        still = "" if gap.size >= _WIDE_GAP[task] else "still only "
        return (
            f"The training accuracy is {percent(gap.train)}, the {gap.split} accuracy {percent(gap.held_out)}: "
            f"{still}{100 * gap.size:.1f} points apart."
        )
    return f"R2 is {number(gap.train)} on the training split and {number(gap.held_out)} on the {gap.split} split."


def _advice(turn: Turn | None, kept_epoch: int | None, remedies: str) -> str:
    if turn is None:
        return f"Much of what it learned holds for the training samples alone: try {remedies}."
    if kept_epoch is not None:
        return f"The weights of epoch {kept_epoch}, from before that, were kept: what followed is not in the scores."
    return (
        f"From about epoch {turn.onset_epoch} on it learned what holds for the training samples alone: stop near "
        f"epoch {turn.best_epoch} (`early_stopping` brings back the best weights), or try {remedies}."
    )


def _numbers(evidence: Evidence, turn: Turn | None, gap: Gap | None) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    if turn:
        numbers |= {
            "best_epoch": turn.best_epoch,
            "onset_epoch": turn.onset_epoch,
            "best_validation_loss": turn.best_loss,
            "validation_loss_at_end": turn.end_level,
            "train_loss_at_best": turn.train_at_best,
            "train_loss_at_end": turn.train_at_end,
            "loss_gap_at_best": turn.best_loss - turn.train_at_best,
            "loss_gap_at_end": turn.end_level - turn.train_at_end,
        }
        numbers |= _accuracy_gap_at(turn.best_epoch, *evidence.curves("train_accuracy", "validation_accuracy"))
    if gap:
        score = "accuracy" if evidence.task == "classification" else "r2"
        numbers |= {"split": gap.split, f"train_{score}": gap.train, f"{gap.split}_{score}": gap.held_out}
        numbers |= {f"{score}_gap_at_end": gap.size}
        measured = {"train_loss": evidence.loss.train, f"{gap.split}_loss": getattr(evidence.loss, gap.split)}
        numbers |= {name: loss for name, loss in measured.items() if loss is not None}
    return numbers


def _accuracy_gap_at(epoch: int, train: Curve, validation: Curve) -> dict[str, float]:
    if epoch not in train.epochs:
        return {}
    index = train.epochs.index(epoch)
    return {"accuracy_gap_at_best": train.values[index] - validation.values[index]}
