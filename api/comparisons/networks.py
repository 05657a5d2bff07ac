"""Two networks layer by layer: which layers correspond, and how they differ."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile, zip_longest
from typing import NamedTuple

from api.comparisons.schemas import ComparedLayer
from api.comparisons.specs import canonical
from models.placed_layers import PlacedLayer

_FAMILIES = {
    "activation": ("relu", "leaky_relu", "gelu", "tanh", "sigmoid", "softmax", "log_softmax"),
    "pool": ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "global_avg_pool2d"),
    "norm": ("batch_norm1d", "batch_norm2d", "layer_norm", "group_norm"),
    "dropout": ("dropout", "dropout2d"),
}
_FAMILY_OF = {kind: family for family, kinds in _FAMILIES.items() for kind in kinds}
_EQUAL, _SAME_KIND, _SAME_FAMILY = 3, 2, 1
# A cell is two layers whose likeness is weighed, in 0.15 microseconds or so: four pairs of networks of 500 layers.
MAX_CELLS = 1_000_000


@dataclass
class Budget:
    """How many cells all alignments of one answer may still take, and how many lists found too few left."""

    cells: int = MAX_CELLS
    refusals: int = 0

    def take(self, cells: int) -> bool:
        """Take so many cells, or count a refusal where there are fewer."""
        if cells > self.cells:
            self.refusals += 1
            return False
        self.cells -= cells
        return True


class _Looks(NamedTuple):
    """What two layers are compared by, in this order."""

    content: str
    kind: str
    family: str


@dataclass(frozen=True)
class Place(PlacedLayer):
    """A layer as networks are aligned by it, and as an answer shows it."""

    inside: tuple["Place", ...] = ()

    @cached_property
    def looks(self) -> _Looks:
        """What it is compared by when networks are aligned."""
        kind = self.layer["kind"]
        return _Looks(_content(self), kind, _FAMILY_OF.get(kind, kind))

    @cached_property
    def shown(self) -> ComparedLayer:
        """The layer as an answer shows it, in every pair that it is in."""
        return ComparedLayer(
            loc=self.loc,
            layer=self.layer,
            output_shape=list(self.output_shape),
            parameters=self.parameters,
            macs=self.macs,
        )


Pair = tuple[Place | None, Place | None]


def align(first: Sequence[Place], other: Sequence[Place], budget: Budget) -> list[Pair]:
    """Pair the layers of two lists in their order; a layer without a counterpart is paired with None.

    Of all ways it takes one of the highest sum of likeness (Needleman and Wunsch, Journal of Molecular Biology 48,
    1970): equal layers count most, then those of the same kind, then those that stand in for each other, as a tanh for
    a relu. The time is quadratic in the layers between the equal beginnings and the equal ends: where the budget does
    not suffice for it, those are paired by their position.
    """
    if not first and not other:  # as inside of all that is no residual
        return []
    mine, theirs = [place.looks for place in first], [place.looks for place in other]
    begin = _equal_at_begin(mine, theirs)
    end = _equal_at_begin(mine[begin:][::-1], theirs[begin:][::-1])
    middle, their_middle = slice(begin, len(first) - end), slice(begin, len(other) - end)
    between: Iterable[Pair] = zip_longest(first[middle], other[their_middle])
    if budget.take((middle.stop - begin) * (their_middle.stop - begin)):
        between = _paired(first[middle], other[their_middle], _likeness(mine[middle], theirs[their_middle]))
    return [
        *zip(first[:begin], other[:begin], strict=True),
        *between,
        *zip(first[middle.stop :], other[their_middle.stop :], strict=True),
    ]


def _content(place: Place) -> str:
    return canonical([place.layer, [_content(inner) for inner in place.inside]])


def _equal_at_begin(mine: Sequence[_Looks], theirs: Sequence[_Looks]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(mine, theirs, strict=False)))


def _likeness(mine: Sequence[_Looks], theirs: Sequence[_Looks]) -> list[list[int]]:
    """Return how alike each of the layers is to each of the others; 0: they are not to be paired."""
    rows = {
        looks: [
            _EQUAL
            if looks.content == content
            else _SAME_KIND
            if looks.kind == kind
            else _SAME_FAMILY * (looks.family == family)
            for content, kind, family in theirs
        ]
        for looks in dict.fromkeys(mine)
    }
    return [rows[looks] for looks in mine]


def _paired(first: Sequence[Place], other: Sequence[Place], likeness: Sequence[Sequence[int]]) -> list[Pair]:
    best = _best_sums(likeness, len(other))
    pairs: list[Pair] = []
    row = column = 0
    while row < len(first) and column < len(other):
        like = likeness[row][column]
        if like and best[row][column] == like + best[row + 1][column + 1]:
            pairs.append((first[row], other[column]))
            row, column = row + 1, column + 1
        elif best[row][column] == best[row + 1][column]:
            pairs.append((first[row], None))
            row += 1
        else:
            pairs.append((None, other[column]))
            column += 1
    return [*pairs, *((place, None) for place in first[row:]), *((None, place) for place in other[column:])]


def _best_sums(likeness: Sequence[Sequence[int]], width: int) -> list[list[int]]:
    """Return the highest sum that pairing the rows from each row on with the columns from each column on can reach."""
    best = [[0] * (width + 1) for _ in range(len(likeness) + 1)]
    for row in range(len(likeness) - 1, -1, -1):
        below, here, like = best[row + 1], best[row], likeness[row]
        highest = 0
        for column in range(width - 1, -1, -1):
            # Not max(): the call would take twice the time of all the rest.
            paired = like[column] + below[column + 1]
            if paired > highest:
                highest = paired
            if below[column] > highest:
                highest = below[column]
            here[column] = highest
    return best
