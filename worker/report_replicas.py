"""What the replicas of a job say together, for its result."""

from collections.abc import Callable, Sequence

from models.across_seeds import score_of
from models.replicas import ReplicaScore, ReplicaSplits, ReplicasReport
from models.spec import JobSpec
from worker.datasets import PreparedData
from worker.training.across_replicas import curves_of
from worker.training.loop import Evaluation
from worker.training.replicas import Replicas
from worker.training.scores import regression_scores
from worker.training.splits import Evaluations

# A score of one replica, of its number and what was measured on one of its splits.
Score = Callable[[int, Evaluation], float | None]


def report_replicas(
    spec: JobSpec, replicas: Replicas, measured: Sequence[Evaluations], data: Sequence[PreparedData]
) -> ReplicasReport | None:
    """Return the scores and curves of all replicas, `measured` and `data` of each; None for a job without."""
    if len(replicas.members) == 1:
        return None

    def error(name: str) -> Score:
        def of(replica: int, evaluation: Evaluation) -> float | None:
            scale = data[replica].target_scale
            assert scale is not None, "a regression's target has a scale"
            value: float | None = getattr(regression_scores(evaluation.targets, evaluation.predictions, scale), name)
            return value

        return of

    regression = spec.dataset.task == "regression"
    errors = {name: _per_split(measured, error(name)) if regression else None for name in ("mse", "mae", "r2")}
    return ReplicasReport(
        seeds=list(replicas.seeds),
        vectorised=replicas.note is None,
        note=replicas.note,
        loss=_per_split(measured, lambda _, evaluation: evaluation.loss),
        accuracy=None if regression else _per_split(measured, lambda _, evaluation: evaluation.accuracy),
        curves=curves_of(replicas.history),
        **errors,
    )


def _per_split(measured: Sequence[Evaluations], score: Score) -> ReplicaSplits:
    def over(evaluations: Sequence[Evaluation | None]) -> ReplicaScore | None:
        return score_of([None if each is None else score(replica, each) for replica, each in enumerate(evaluations)])

    return ReplicaSplits(
        train=over([each.train for each in measured]),
        validation=over([each.validation for each in measured]),
        test=over([each.test for each in measured]),
    )
