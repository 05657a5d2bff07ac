"""Tests of the seeded, stratified holdout."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.errors import InvalidData
from worker.datasets.splits import stratified_holdout

CLASS_SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=12)


def labels_of(sizes: list[int]) -> NDArray[np.int64]:
    labels = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
    return np.random.default_rng(len(labels)).permutation(labels)


@given(sizes=CLASS_SIZES, fraction=st.floats(0.01, 0.9), seed=st.integers(0, 2**63))
def test_a_holdout_parts_all_samples_and_is_proportional(sizes: list[int], fraction: float, seed: int) -> None:
    labels = labels_of(sizes)
    total = round(fraction * len(labels))
    assume(0 < total <= len(labels) - len(sizes))
    train, holdout = stratified_holdout(labels, fraction, seed)

    assert len(holdout) == total
    assert np.array_equal(np.sort(np.concatenate([train, holdout])), np.arange(len(labels)))
    assert train.dtype == holdout.dtype == np.int64
    assert np.all(np.diff(train) > 0)
    assert np.all(np.diff(holdout) > 0)
    shares = np.bincount(labels[holdout], minlength=len(sizes))
    assert np.all(np.array(sizes) - shares >= 1)
    # Only a class too small for its share hands it on; where none is, each has its quota, rounded down or up.
    quotas = np.array(sizes) * total / len(labels)
    if np.all(np.ceil(quotas) < sizes):
        assert np.all(np.abs(shares - quotas) < 1)

    again = stratified_holdout(labels, fraction, seed)
    assert np.array_equal(again[0], train)
    assert np.array_equal(again[1], holdout)


@given(sizes=CLASS_SIZES, fraction=st.floats(0, 1), seed=st.integers(0, 9))
def test_a_split_that_cannot_be_made_is_refused_and_no_other(sizes: list[int], fraction: float, seed: int) -> None:
    labels = labels_of(sizes)
    total = round(fraction * len(labels))
    if 0 < total <= len(labels) - len(sizes):
        stratified_holdout(labels, fraction, seed)
    else:
        with pytest.raises(InvalidData):
            stratified_holdout(labels, fraction, seed)


def test_the_largest_remainders_get_the_samples_left_over() -> None:
    # The quotas are 2.5, 3.5 and 4.0: the tie for the tenth sample goes to the first class.
    labels = labels_of([25, 35, 40])
    _, holdout = stratified_holdout(labels, 0.1, seed=0)
    assert np.bincount(labels[holdout]).tolist() == [3, 3, 4]


def test_a_class_too_small_for_its_share_hands_it_to_another() -> None:
    labels = labels_of([1, 1, 1, 7])
    _, holdout = stratified_holdout(labels, 0.6, seed=0)
    assert np.bincount(labels[holdout], minlength=4).tolist() == [0, 0, 0, 6]


def test_another_seed_holds_out_other_samples() -> None:
    labels = labels_of([50, 50])
    assert not np.array_equal(stratified_holdout(labels, 0.2, 1)[1], stratified_holdout(labels, 0.2, 2)[1])


def test_which_samples_a_seed_holds_out_never_changes() -> None:
    _, holdout = stratified_holdout(np.array([0, 1] * 8, dtype=np.int64), 0.25, seed=7)
    assert holdout.tolist() == [3, 6, 11, 12]


@pytest.mark.parametrize(
    ("fraction", "sentence"),
    [
        (0.001, "Holding out 0.001 of 100 samples leaves one of the two splits empty."),
        (0.999, "Holding out 0.999 of 100 samples leaves one of the two splits empty."),
        (0.97, "Holding out 97 of 100 samples leaves a class without a training sample."),
    ],
)
def test_a_refused_split_says_which_numbers_do_not_fit(fraction: float, sentence: str) -> None:
    with pytest.raises(InvalidData) as refusal:
        stratified_holdout(labels_of([50, 25, 15, 10]), fraction, seed=0)
    assert str(refusal.value) == sentence
