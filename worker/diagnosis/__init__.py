"""What a reader of a result should know of it: `diagnose`, from recorded numbers alone, in plain Python.

Every code with its rule, its thresholds and what to do is in docs/diagnosis.md.
"""

from models.result import Diagnosis
from worker.diagnosis.chance import accuracy_at_chance
from worker.diagnosis.data import class_imbalance, leakage, not_validated, validated_on_test
from worker.diagnosis.evidence import DeadUnits, Evidence, Rule, SharedModule, Splits
from worker.diagnosis.network import dead_units, parameter_without_gradient, weights_shared
from worker.diagnosis.overfitting import overfitting
from worker.diagnosis.progress import loss_did_not_move, not_converged, underfitting
from worker.diagnosis.stability import unstable

__all__ = ["DeadUnits", "Evidence", "SharedModule", "Splits", "diagnose"]

# Each rule on how the training went, and those that silence it: their advice comes first, or says the opposite.
_LEARNING: tuple[tuple[Rule, tuple[Rule, ...]], ...] = (
    (loss_did_not_move, ()),
    (overfitting, (loss_did_not_move,)),
    (unstable, (loss_did_not_move,)),
    (accuracy_at_chance, (loss_did_not_move,)),
    (not_converged, (loss_did_not_move, overfitting, unstable)),
    (underfitting, (loss_did_not_move, overfitting, unstable, accuracy_at_chance, not_converged)),
)
_DATA: tuple[Rule, ...] = (validated_on_test, not_validated, leakage, class_imbalance)
_NETWORK: tuple[Rule, ...] = (dead_units, parameter_without_gradient, weights_shared)
_GRAVITY = ("error", "warning", "info")


def diagnose(evidence: Evidence) -> list[Diagnosis]:
    """Say aloud what makes the figures mean something else than a reader expects, the gravest first."""
    found = _how_it_learned(evidence)
    for rule in (*_DATA, *_NETWORK):
        found += rule(evidence)
    return sorted(found, key=lambda diagnosis: _GRAVITY.index(diagnosis.level))


def _how_it_learned(evidence: Evidence) -> list[Diagnosis]:
    findings: dict[Rule, list[Diagnosis]] = {}
    for rule, silencers in _LEARNING:
        silenced = any(findings[silencer] for silencer in silencers)
        findings[rule] = [] if silenced else rule(evidence)
    return [diagnosis for finding in findings.values() for diagnosis in finding]
