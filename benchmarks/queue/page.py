"""What is written of a run: its tables, the goals beside what was found, and what it ran on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmarks.machine import machine
from benchmarks.queue.claims import BARE, Claims
from benchmarks.queue.setting import OFFERS, USERS, Scale
from benchmarks.queue.submissions import Submissions
from benchmarks.tables import Goal, below, percentile, table

_CLAIM_MILLISECONDS = 5.0
_SUBMISSION_MILLISECONDS = 20.0


@dataclass
class Figures:
    """What was measured, in seconds; what was not is empty."""

    scale: Scale
    command: str
    date: str
    software: dict[str, str]
    claims: Claims = field(default_factory=dict)
    submissions: Submissions = field(default_factory=dict)


def write(figures: Figures) -> str:
    """Return the section in Markdown."""
    parts = {
        "Goals of the queue": table(["goal", "wanted", "found", "reached"], [goal.cells() for goal in goals(figures)]),
        "Time of a claim": _claims(figures) if figures.claims else "",
        "Submit to claim": _submissions(figures) if figures.submissions else "",
    }
    return "\n\n".join([_origin(figures), *(f"### {title}\n\n{text}" for title, text in parts.items() if text)])


def goals(figures: Figures) -> Iterator[Goal]:
    """Yield every goal that something was measured for; each is of a median."""
    for name in OFFERS:
        length = figures.scale.lengths[-1]
        if seconds := figures.claims.get((name, length)):
            what = f"a claim for {name}, {length:,} jobs of {USERS} users in line"
            yield below(what, _CLAIM_MILLISECONDS, 1_000 * median(seconds), "ms", digits=1)
    for name, seconds in figures.submissions.items():
        what = f"`POST /jobs` to the claim, {name}"
        yield below(what, _SUBMISSION_MILLISECONDS, 1_000 * median(seconds), "ms", digits=1)


def _origin(figures: Figures) -> str:
    facts = machine() | {
        "software": ", ".join(f"{name} {number}" for name, number in figures.software.items()),
        "command": f"`{figures.command}`",
        "measured": f"{figures.date}, all kinds of claims in turn",
    }
    return table(["", ""], facts.items())


def _claims(figures: Figures) -> str:
    lines = [
        [name, *(_milliseconds(figures.claims[name, length]) for length in figures.scale.lengths)]
        for name in (*OFFERS, BARE)
    ]
    lengths = (f"{length:,} jobs, n = {figures.scale.claims_of(length)}" for length in figures.scale.lengths)
    return table(["ms, p50 / p95", *lengths], lines)


def _submissions(figures: Figures) -> str:
    lines = [[name, str(len(seconds)), _milliseconds(seconds)] for name, seconds in figures.submissions.items()]
    return table(["the worker is idle, and", "n", "ms, p50 / p95"], lines)


def _milliseconds(seconds: Sequence[float]) -> str:
    return f"{1_000 * median(seconds):,.2f} / {1_000 * percentile(seconds, 95):,.2f}"
