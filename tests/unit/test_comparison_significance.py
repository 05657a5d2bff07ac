"""McNemar's test and Holm's adjustment against scipy and published examples, and the pairs that they are made of."""

from typing import Any
from uuid import UUID

import pytest
from scipy import stats  # type: ignore[import-untyped]

from api.comparisons.pairs import significance_of
from api.comparisons.rows import Evaluated, Row
from api.comparisons.significance import holm, mcnemar
from models.predictions import correct_bits


def test_few_discordant_samples_are_tested_exactly() -> None:
    for total in range(25):
        for only_first in range(total + 1):
            outcome = mcnemar(only_first, total - only_first)
            expected = stats.binomtest(only_first, total, 0.5).pvalue if total else 1.0
            assert outcome.test == "exact_binomial"
            assert outcome.statistic is None
            assert outcome.p_value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("b", "c"), [(25, 0), (0, 25), (20, 15), (86, 150), (1000, 1003), (60_000, 40_000)])
def test_many_are_tested_by_chi_squared_with_edwards_correction(b: int, c: int) -> None:
    outcome = mcnemar(b, c)
    statistic = (abs(b - c) - 1) ** 2 / (b + c)
    assert outcome.test == "chi_squared"
    assert outcome.statistic == pytest.approx(statistic)
    assert outcome.p_value == pytest.approx(stats.chi2.sf(statistic, 1), rel=1e-9)


def test_agrestis_approval_ratings_come_out_as_published() -> None:
    """Agresti, Categorical Data Analysis, 1990, page 350, as in the help of R's mcnemar.test."""
    outcome = mcnemar(150, 86)
    assert outcome.statistic == pytest.approx(16.818, abs=5e-4)
    assert outcome.p_value == pytest.approx(4.115e-05, rel=1e-3)


def test_equal_counts_are_no_difference_however_many() -> None:
    assert [mcnemar(count, count).p_value for count in (0, 3, 12, 13, 5_000)] == [1.0] * 5


def test_holms_adjustment_is_that_of_r() -> None:
    """p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm") of R."""
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm([0.05, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def row(number: int, correct: str | None = "1100", *, digest: str = "d", **changes: Any) -> Row:
    """A job on the digits; `correct` says which of its test samples it has right, None that there is no result."""
    dataset = {"name": "digits", "resize": None} | changes.pop("dataset", {})
    bits = int(correct or "0", 2)
    return Row(
        id=UUID(int=number),
        name=None,
        status="running" if correct is None else "succeeded",
        user="ann",
        spec={"dataset": dataset, "training": {"seed": 1, "replicas": 1}},
        essentials=None if correct is None else {},
        last_epoch=1,
        best_epoch=1,
        tested=None if correct is None else Evaluated(len(correct), digest, changes.pop("labels", "l"), bits),
    )


def test_a_pair_counts_what_only_one_of_them_has_right() -> None:
    (pair,) = significance_of([row(1, "110100"), row(2, "010011")])
    assert (pair.first, pair.second) == (UUID(int=1), UUID(int=2))
    assert (pair.samples, pair.b, pair.c, pair.matched_by) == (6, 2, 2, "content")
    assert (pair.accuracy_difference, pair.p_value, pair.p_value_holm) == (0.0, 1.0, 1.0)
    assert pair.message.startswith(
        "Of the same 6 test samples only the first job predicts 2 correctly, only the second 2:"
    )


def test_every_pair_is_tested_and_adjusted_for_their_number() -> None:
    worse, better, same = row(1, "0" * 20), row(2, "1" * 20), row(3, "1" * 20)
    pairs = significance_of([worse, better, same])
    assert [(int(pair.first), int(pair.second)) for pair in pairs] == [(1, 2), (1, 3), (2, 3)]
    single = stats.binomtest(0, 20, 0.5).pvalue
    assert [pair.p_value for pair in pairs] == pytest.approx([single, single, 1.0])
    assert [pair.p_value_holm for pair in pairs] == pytest.approx([3 * single, 3 * single, 1.0])
    assert [pair.accuracy_difference for pair in pairs] == [-1.0, -1.0, 0.0]
    assert "beyond chance" in pairs[0].message
    assert "adjusted for 3 pairs" in pairs[0].message
    assert "chance alone may explain" in pairs[2].message


REGRESSION = {"name": "table", "classes": None}


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (row(1), row(2, None), "no_result"),
        (row(1, dataset=REGRESSION), row(2), "not_a_classification"),
        (row(1, dataset=REGRESSION), row(2, None), "no_result"),
        (row(1), row(2, digest="other"), "different_test_samples"),
        (row(1), row(2, digest="other", dataset={"resize": 32}, labels="m"), "different_test_samples"),
        (row(1), row(2, "11000", digest="other", dataset={"resize": 32}), "different_test_samples"),
        (
            row(1, dataset={"name": "images", "resize": 8}),
            row(2, digest="other", dataset={"name": "images", "resize": 32}),
            "different_test_samples",
        ),
    ],
)
def test_a_pair_that_cannot_be_tested_says_why(first: Row, second: Row, reason: str) -> None:
    (pair,) = significance_of([first, second])
    assert pair.reason == reason
    assert (pair.b, pair.c, pair.p_value, pair.p_value_holm) == (None, None, None, None)
    assert pair.message.endswith(".")


def test_untested_pairs_do_not_count_in_the_adjustment() -> None:
    pairs = significance_of([row(1, "0" * 10), row(2, "1" * 10), row(3, None)])
    assert pairs[0].p_value_holm == pairs[0].p_value
    assert [pair.reason for pair in pairs] == [None, "no_result", "no_result"]


def test_a_published_data_set_that_one_of_them_resized_has_the_same_samples() -> None:
    (pair,) = significance_of([row(1), row(2, "1000", digest="other", dataset={"resize": 32})])
    assert (pair.reason, pair.matched_by, pair.b, pair.c) == (None, "published_order", 1, 0)


@pytest.mark.parametrize(
    ("labels", "predictions", "bits"),
    [([1, 2, 3], [1, 0, 3], 0b101), ([0] * 9, [0] * 8 + [1], 0b111111110), ([5], [5], 1), ([], [], 0)],
)
def test_the_bits_of_what_is_correct_have_the_last_sample_lowest(
    labels: list[int], predictions: list[int], bits: int
) -> None:
    packed = correct_bits(labels, predictions)
    assert int.from_bytes(packed, "big") == bits
    assert len(packed) == (len(labels) + 7) // 8
