"""From the cells of one column, as texts, to numbers; the first bad cell is told by its place and what is wrong."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from models.dataset_spec import Feature, NumberColumn, OneHotColumn
from worker.datasets.source import listed

_YES_NO = {"yes": 1, "true": 1, "1": 1, "no": 0, "false": 0, "0": 0}


class BadCell(ValueError):
    """A cell that cannot be read: its index among the cells given, and a phrase that says why."""

    def __init__(self, index: int, why: str) -> None:
        super().__init__(why)
        self.index = index


def encode(feature: Feature, cells: Sequence[str]) -> NDArray[np.float64]:
    """Return the features that one column becomes, (N, 1) or (N, categories); raises BadCell."""
    if isinstance(feature, NumberColumn):
        return numbers(cells)[:, np.newaxis]
    if isinstance(feature, OneHotColumn):
        return np.eye(len(feature.categories))[labels(cells, feature.categories, "categories")]
    return _look_up([cell.strip().lower() for cell in cells], _YES_NO, _why_not_yes_or_no).astype(np.float64)[:, None]


def numbers(cells: Sequence[str]) -> NDArray[np.float64]:
    """Return decimal numbers, (N,); raises BadCell for anything else, infinities and NaN included."""
    try:
        values = np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        values = np.array([math.nan])
    # Python reads 1_000 as a number, nobody else does.
    if "_" in "".join(cells) or not np.isfinite(values).all():
        raise _first_bad(cells, _why_no_number)
    return values + 0.0  # -0 is 0


def labels(cells: Sequence[str], names: Sequence[str], what: str) -> NDArray[np.int64]:
    """Return the place of each cell in `names`, (N,); raises BadCell. `what` the names are, the error says."""

    places = {name: place for place, name in enumerate(names)}

    def why_not_named(cell: str) -> str | None:
        return None if cell in places else f"{shown(cell)} is none of the {what} of the spec: {listed(names)}"

    return _look_up([cell.strip() for cell in cells], places, why_not_named)


def shown(text: str) -> str:
    """Return text of a file as part of a sentence: quoted, printable and not too long."""
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


def _look_up(cells: Sequence[str], values: dict[str, int], why_bad: Callable[[str], str | None]) -> NDArray[np.int64]:
    try:
        return np.array([values[cell] for cell in cells], dtype=np.int64)
    except KeyError:
        raise _first_bad(cells, why_bad) from None


def _first_bad(cells: Sequence[str], why_bad: Callable[[str], str | None]) -> BadCell:
    """Return the error for the first cell that is empty or that `why_bad` gives a reason against."""
    reasons = ("the cell is empty" if not cell.strip() else why_bad(cell) for cell in cells)
    return next(BadCell(index, why) for index, why in enumerate(reasons) if why is not None)


def _why_no_number(cell: str) -> str | None:
    try:
        value = float(cell.replace("_", "no number"))
    except ValueError:
        return f"{shown(cell)} is not a number"
    return None if math.isfinite(value) else f"{shown(cell)} is not a finite number"


def _why_not_yes_or_no(cell: str) -> str | None:
    return None if cell in _YES_NO else f"{shown(cell)} is neither yes nor no (nor true or false, 1 or 0)"
