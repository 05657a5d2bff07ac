"""An accuracy beside that of guessing."""

import math
from collections.abc import Mapping

from models.result import Diagnosis, Level
from worker.diagnosis.evidence import Evidence
from worker.diagnosis.wording import percent

_LUCK = 0.01  # probability of so many hits by guessing; below it nobody calls it guessing
_AT_CHANCE = 0.01  # of accuracy above guessing; with 10,000 test samples of ten classes that is 3 standard errors


def accuracy_at_chance(evidence: Evidence) -> list[Diagnosis]:
    """Fire where always answering the most frequent class of the test split does as well, or might by luck."""
    accuracy, classes = evidence.accuracy.test, evidence.test_classes
    if accuracy is None or not any(classes.values()):
        return []
    luck = _luck(accuracy, classes)
    if luck <= _LUCK:
        return []
    name = max(classes, key=lambda each: classes[each])
    samples = sum(classes.values())
    share = classes[name] / samples
    guessing = f"always answering '{name}' gets {percent(share)} of the {samples:,} test samples right"
    level: Level = "error" if accuracy <= share + _AT_CHANCE else "info"
    message = (
        f"The test accuracy of {percent(accuracy)} is no better than guessing: {guessing}. Look at the confusion "
        "matrix, and check labels, learning rate and the scaling of the inputs before anything else."
        if level == "error"
        else f"The test accuracy of {percent(accuracy)} cannot be told from guessing: {guessing}, and with so few "
        f"samples luck would do as well with a probability of {percent(luck)}. Test on more samples."
    )
    numbers = {
        "test_accuracy": accuracy,
        "majority_class": name,
        "majority_share": share,
        "test_samples": samples,
        "probability_by_guessing": luck,
    }
    return [Diagnosis(code="accuracy_at_chance", level=level, message=message, evidence=numbers)]


def beats_guessing(evidence: Evidence) -> bool:
    """Tell whether the test accuracy is known, and better than guessing beyond luck."""
    accuracy, classes = evidence.accuracy.test, evidence.test_classes
    return accuracy is not None and any(classes.values()) and _luck(accuracy, classes) <= _LUCK


def _luck(accuracy: float, classes: Mapping[str, int]) -> float:
    """Return the probability of at least so many hits, a binomial tail, where each has the majority class's share."""
    samples = sum(classes.values())
    share = max(classes.values()) / samples
    if share == 1:
        return 1.0

    def log_probability(hits: int) -> float:
        ways = math.lgamma(samples + 1) - math.lgamma(hits + 1) - math.lgamma(samples - hits + 1)
        return ways + hits * math.log(share) + (samples - hits) * math.log1p(-share)

    tail = math.fsum(math.exp(log_probability(hits)) for hits in range(round(accuracy * samples), samples + 1))
    return min(1.0, tail)
