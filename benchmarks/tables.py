"""Medians with their spread, tables in Markdown, and the places in a page that are written by a benchmark."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Spread:
    """The median of repeated measurements, and the lowest and the highest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Return that of some values, of which there is at least one."""
        ordered = sorted(values)
        return cls(median(ordered), ordered[0], ordered[-1])

    @classmethod
    def of_ratios(cls, values: Sequence[float], others: Sequence[float]) -> "Spread":
        """Return that of value / other, repeat by repeat: what slows a whole repeat down does not count."""
        return cls.of(value / other for value, other in zip(values, others, strict=True))

    def show(self, form: str = ",.0f") -> str:
        """Return median (lowest to highest), each in this format."""
        return f"{self.median:{form}} ({self.low:{form}} to {self.high:{form}})"


@dataclass(frozen=True)
class Goal:
    """Something that was aimed at, what was found, and whether that is enough."""

    what: str
    wanted: str
    found: str
    reached: bool

    def cells(self) -> list[str]:
        """Return the row of a table."""
        return [self.what, self.wanted, self.found, "yes" if self.reached else "**no**"]


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that so many per cent of all values do not exceed (the nearest rank)."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def at_least(what: str, wanted: float, found: float) -> Goal:
    """Return the goal of a ratio that must not be lower."""
    places = 3 if found < wanted <= round(found, 2) else 2  # a near miss must not look like what was wanted
    return Goal(what, f"at least {wanted:.2f}", f"{found:.{places}f}", found >= wanted)


def below(what: str, wanted: float, found: float, unit: str, digits: int = 0) -> Goal:
    """Return the goal of a figure that must be lower; `digits` are shown of it, and one more of what was found."""
    return Goal(what, f"under {wanted:,.{digits}f} {unit}", f"{found:,.{digits + 1}f} {unit}", found < wanted)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown; all columns but the first are aligned to the right."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_section(page: str, name: str, content: str) -> str:
    """Return the page with `content` between the markers of a name; raise ValueError where it has no such markers."""
    begin, end = f"<!-- benchmark: {name} -->", f"<!-- end of benchmark: {name} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"the page has no lines {begin} and {end}")
    return f"{before}{begin}\n\n{content.strip()}\n\n{end}{after}"
