"""Every pair of jobs: whether they were tested on the same samples, and how significant their difference is."""

from collections.abc import Sequence
from itertools import combinations

from api.comparisons.rows import Evaluated, Row
from api.comparisons.schemas import PairReason, PairSignificance
from api.comparisons.significance import LEVEL, holm, mcnemar


def significance_of(rows: Sequence[Row]) -> list[PairSignificance]:
    """Test every pair of jobs that can be tested; p values are adjusted for the number of these."""
    pairs = [_pair(first, second) for first, second in combinations(rows, 2)]
    adjusted = iter(holm([pair.p_value for pair in pairs if pair.p_value is not None]))
    tested = sum(pair.p_value is not None for pair in pairs)
    return [pair if pair.p_value is None else _adjusted(pair, next(adjusted), tested) for pair in pairs]


def _pair(first: Row, second: Row) -> PairSignificance:
    against = _reason_against(first, second)
    if against is not None:
        reason, message = against
        return PairSignificance(first=first.id, second=second.id, reason=reason, message=message)
    one, other = first.tested, second.tested
    assert one is not None, "there is no reason against the pair"
    assert other is not None, "there is no reason against the pair"
    b, c = (one.correct & ~other.correct).bit_count(), (other.correct & ~one.correct).bit_count()
    outcome = mcnemar(b, c)
    return PairSignificance(
        first=first.id,
        second=second.id,
        samples=one.samples,
        matched_by="content" if one.samples_digest == other.samples_digest else "published_order",
        accuracy_difference=(b - c) / one.samples,
        b=b,
        c=c,
        test=outcome.test,
        statistic=outcome.statistic,
        p_value=outcome.p_value,
        message="",
    )


def _adjusted(pair: PairSignificance, p_value: float, tested: int) -> PairSignificance:
    method = "exact binomial test" if pair.test == "exact_binomial" else "chi-squared with continuity correction"
    pairs = f", {p_value:.3g} adjusted for {tested} pairs" if tested > 1 else ""
    verdict = (
        "the two networks differ in accuracy beyond chance"
        if p_value < LEVEL
        else "chance alone may explain the difference in accuracy"
    )
    message = (
        f"Of the same {pair.samples:,} test samples only the first job predicts {pair.b:,} correctly, only the second "
        f"{pair.c:,}: {verdict} (McNemar, {method}, p = {pair.p_value:.3g}{pairs}). This holds for these two trained "
        "networks; another seed gives others."
    )
    return pair.model_copy(update={"p_value_holm": p_value, "message": message})


def _reason_against(first: Row, second: Row) -> tuple[PairReason, str] | None:
    for row in (first, second):
        if row.essentials is None:
            return "no_result", f"Job {row.id} is {row.status} and has no result."
    for row in (first, second):
        if row.task != "classification":
            return "not_a_classification", f"Job {row.id} is a regression: its predictions are not right or wrong."
    for row in (first, second):
        if row.tested is None:
            return "no_predictions", f"No predictions of job {row.id} are kept."
    assert first.tested is not None, "just looked at"
    assert second.tested is not None, "just looked at"
    if _same_samples(first, first.tested, second, second.tested):
        return None
    return "different_test_samples", "The jobs were not tested on the same samples, or not with the same labels."


def _same_samples(first: Row, one: Evaluated, second: Row, other: Evaluated) -> bool:
    """Tell whether the content is the same, or the data set of one name, resized, with the same labels in order."""
    if one.samples_digest == other.samples_digest:
        return True
    mine, theirs = first.spec["dataset"], second.spec["dataset"]
    # The test split of a published data set has an order; resized, its samples have other pixels and no other identity.
    published = mine["name"] == theirs["name"] and mine["name"] not in ("images", "table")
    resized = mine.get("resize") != theirs.get("resize")
    return published and resized and (one.samples, one.labels_digest) == (other.samples, other.labels_digest)
