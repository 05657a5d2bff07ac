"""The data: what was held out, what stands in two splits, and how evenly the classes are filled."""

from models.result import Diagnosis, Level
from worker.diagnosis.evidence import Evidence
from worker.diagnosis.wording import listed, percent

# Of the second split. The 3.3 % of CIFAR-10's test images that are near-duplicates of training images raised published
# scores measurably (Barz and Denzler 2020); one sample in a hundred moves a score by a point at most.
_LEAKAGE = 0.01
_SEVERE_LEAKAGE = 0.05

# Samples of the largest class per sample of the smallest: where KEEL's collection parts low from high imbalance, and
# where, of two classes, the smaller has 20 % (beyond it "moderate" in Google's machine learning course).
_IMBALANCE = 4.0
_HIGH_IMBALANCE = 9.0


def validated_on_test(evidence: Evidence) -> list[Diagnosis]:
    """Fire where the test split is the validation split."""
    if evidence.validation != "test":
        return []
    message = (
        "The test split was used for validation: a best epoch picked by validation is picked on the test data, "
        "so its score is optimistic. Hold out a fraction of the training split instead."
    )
    return [Diagnosis(code="validated_on_test", level="warning", message=message, evidence={"validation": "test"})]


def not_validated(evidence: Evidence) -> list[Diagnosis]:
    """Fire where nothing was held out for validation."""
    if evidence.validation != 0:
        return []
    figure = "accuracy" if evidence.task == "classification" else "loss"
    message = (
        f"Nothing was held out for validation: best and worst epoch are by training {figure}, and no curve shows "
        "when the network began to overfit."
    )
    return [Diagnosis(code="not_validated", level="info", message=message, evidence={"validation": 0.0})]


def leakage(evidence: Evidence) -> list[Diagnosis]:
    """Fire for each pair of splits that have samples in common; graver with their share of the second split."""
    return [_leak(evidence, pair, shared) for pair, shared in evidence.shared_samples.items() if shared > 0]


def class_imbalance(evidence: Evidence) -> list[Diagnosis]:
    """Fire where classes have no training samples, or the smallest has far fewer than the largest."""
    counts = evidence.train_classes
    if not any(counts.values()):
        return []
    empty = [name for name, count in counts.items() if not count]
    if empty:
        return [_empty_classes(empty)]
    smallest, largest = min(counts, key=lambda name: counts[name]), max(counts, key=lambda name: counts[name])
    ratio = counts[largest] / counts[smallest]
    if ratio < _IMBALANCE:
        return []
    message = (
        f"The classes are unevenly filled: '{largest}' has {counts[largest]:,} training samples, '{smallest}' "
        f"{counts[smallest]:,}, and always answering '{largest}' would be right for "
        f"{percent(counts[largest] / sum(counts.values()))} of them. Judge by recall and F1 per class and their macro "
        "averages rather than by the accuracy."
    )
    numbers = {
        "largest_class": largest,
        "largest_samples": counts[largest],
        "smallest_class": smallest,
        "smallest_samples": counts[smallest],
        "ratio": ratio,
    }
    level: Level = "warning" if ratio >= _HIGH_IMBALANCE else "info"
    return [Diagnosis(code="class_imbalance", level=level, message=message, evidence=numbers)]


def _empty_classes(names: list[str]) -> Diagnosis:
    message = (
        f"There is no training sample of {listed([repr(name) for name in names])}: what is not shown cannot be "
        "learned. Check the spelling of the classes, or leave them out."
    )
    evidence = {"empty_classes": names[:100], "count": len(names)}
    return Diagnosis(code="class_imbalance", level="error", message=message, evidence=evidence)


def _leak(evidence: Evidence, pair: str, shared: int) -> Diagnosis:
    first, _, second = pair.partition("/")
    numbers = {"first": first, "second": second, "shared": shared}
    samples_stand = "sample of the {} split also stands" if shared == 1 else "samples of the {} split also stand"
    found = f"{shared:,} {samples_stand.format(second)} in the {first} split"
    level: Level = "warning"
    if samples := evidence.samples.get(second):
        share = shared / samples
        numbers |= {"samples": samples, "share": share}
        found += f", {percent(share)} of its {samples:,}"
        level = "error" if share >= _SEVERE_LEAKAGE else "warning" if share >= _LEAKAGE else "info"
    message = (
        f"{found}: so few hardly change the {second} scores."
        if level == "info"
        else f"{found}: a network that knows them by heart is right there, so the {second} scores are too good. Take "
        "the duplicates out before splitting."
    )
    return Diagnosis(code="leakage", level=level, message=message, evidence=numbers)
