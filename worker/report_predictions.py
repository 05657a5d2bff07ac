"""What the first replica of a job says of each test sample, as it is stored."""

from models.result import Scale
from worker.datasets import PreparedData, SplitIdentity
from worker.messages import Predicted
from worker.training.loop import Evaluation
from worker.training.scores import unscaled

MAX_SAMPLES = 1_000_000  # of a larger test split none are kept: one row of Postgres holds them all


def report_predictions(tested: Evaluation, data: PreparedData) -> Predicted | None:
    """Return what was predicted of the test split; None where it has more than MAX_SAMPLES samples."""
    if len(tested.targets) > MAX_SAMPLES:
        return None
    if data.target_scale is None:
        return _classes(tested, data.test_samples)
    return _numbers(tested, data.test_samples, data.target_scale)


def _classes(tested: Evaluation, samples: SplitIdentity) -> Predicted:
    assert tested.probabilities is not None, "the test split of a classification is measured with probabilities"
    return Predicted(
        samples_digest=samples.digest,
        indices=_indices(samples),
        labels=tested.targets.tolist(),
        predictions=tested.predictions.tolist(),
        probabilities=tested.probabilities.tolist(),
    )


def _numbers(tested: Evaluation, samples: SplitIdentity, scale: Scale) -> Predicted:
    return Predicted(
        samples_digest=samples.digest,
        indices=_indices(samples),
        targets=unscaled(tested.targets, scale).tolist(),
        estimates=unscaled(tested.predictions, scale).tolist(),
    )


def _indices(samples: SplitIdentity) -> list[int] | None:
    return None if samples.rows is None else samples.rows.tolist()
