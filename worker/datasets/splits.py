"""Which samples stand in which split: held out by a seed, class by class in proportion."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from models.errors import InvalidData

Indices = NDArray[np.int64]


def part_rows(
    data: str,
    strata: NDArray[np.int64],
    *,
    test_split: float | None,
    split_seed: int,
    validation: float | str,
    seed: int,
) -> dict[str, Indices]:
    """Part the rows of `data` into "train", "validation" for a fraction of it, and "test" where `test_split` is set.

    `strata` are the labels of all rows, (N,), or all equal for a regression. The test split depends on `split_seed`
    alone; `validation` is a fraction of what is left, held out by `seed`. Raises InvalidData as stratified_holdout.
    """
    rows = {"train": np.arange(len(strata))}
    if test_split is not None:
        with _named(f"test split of {data}"):
            rows["train"], held_out = stratified_holdout(strata, test_split, split_seed)
    if isinstance(validation, float) and validation > 0:
        left = rows["train"]
        with _named(f"validation split of {data}"):
            kept, validated = stratified_holdout(strata[left], validation, seed)
        rows |= {"train": left[kept], "validation": left[validated]}
    return rows if test_split is None else rows | {"test": held_out}


@contextmanager
def _named(split: str) -> Iterator[None]:
    """Say of an error which split was to be held out."""
    try:
        yield
    except InvalidData as error:
        raise InvalidData(f"The {split} cannot be held out. {error}") from None


def stratified_holdout(labels: NDArray[np.int64], fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Return (train, holdout): sorted int64 indices that part the samples of `labels`, shape (N,).

    The holdout has round(fraction * N) samples, each class its proportional share by largest remainder; every class
    keeps at least one sample for training. Equal arguments give equal indices on every machine and numpy version.
    Raises InvalidData where a side would be empty or a class would keep no training sample.
    """
    total = round(fraction * len(labels))
    if not 0 < total < len(labels):
        raise InvalidData(f"Holding out {fraction:g} of {len(labels)} samples leaves one of the two splits empty.")
    classes, counts = np.unique(labels, return_counts=True)
    shares = _apportion(counts, total)

    # Raw PCG64 output, because numpy keeps that stream for ever but not the one of Generator's methods.
    keys = np.random.PCG64(seed).random_raw(len(labels))
    held_out = np.zeros(len(labels), dtype=bool)
    for label, share in zip(classes, shares, strict=True):
        members = np.flatnonzero(labels == label)
        held_out[members[np.argsort(keys[members], kind="stable")[:share]]] = True
    return np.flatnonzero(~held_out).astype(np.int64), np.flatnonzero(held_out).astype(np.int64)


def _apportion(counts: NDArray[np.int64], total: int) -> list[int]:
    """Share `total` among classes by largest remainder, leaving one of each of `counts`; ties go to the first."""
    samples = int(counts.sum())
    if total > samples - len(counts):
        raise InvalidData(f"Holding out {total} of {samples} samples leaves a class without a training sample.")
    quotas = [int(count) * total for count in counts]
    shares = [quota // samples for quota in quotas]
    while sum(shares) < total:
        open_classes = [index for index, share in enumerate(shares) if share < counts[index] - 1]
        neediest = max(open_classes, key=lambda index: quotas[index] - shares[index] * samples)
        shares[neediest] += 1
    return shares
