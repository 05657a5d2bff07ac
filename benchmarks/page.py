"""What is written of a run of the benchmark: its tables, the goals beside what was found, and what it ran on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

from benchmarks.loops import (
    FLOOR,
    OURS,
    OURS_WITH_CHECKPOINTS,
    SIDE_BY_SIDE,
    TEXTBOOKS,
    Rates,
    lightning_is_installed,
)
from benchmarks.machine import machine
from benchmarks.rows import Row
from benchmarks.service import Memory, Start
from benchmarks.tables import Goal, Spread, at_least, below, table
from models.result import Environment

_START_GOAL_MILLISECONDS = 200.0
_CHECKPOINT_MARGIN = 0.05
_MIB = 2**20
_GIB = 2**30
_NO_LIGHTNING = "\n\nLightning is not installed: its rows are missing."


@dataclass
class Figures:
    """What was measured; what was not is empty. Rates are images per second, all times seconds."""

    environment: Environment
    rows: Sequence[Row]
    repeats: int
    command: str
    date: str
    images: str
    rates: dict[str, Rates] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)
    starts: list[Start] = field(default_factory=list)
    fresh_processes: list[float] = field(default_factory=list)
    memory: Memory | None = None
    latencies: dict[tuple[str, int], list[tuple[float, float]]] = field(default_factory=dict)
    replicas: dict[str, list[float]] = field(default_factory=dict)
    replicas_of: str = ""
    reference_runs: dict[str, tuple[float, float]] = field(default_factory=dict)


def write(figures: Figures) -> str:
    """Return the section in Markdown."""
    parts = {
        "Goals": table(["goal", "wanted", "found", "reached"], [goal.cells() for goal in goals(figures)]),
        "Training": _loops(figures) if figures.rates else "",
        "Whole reference runs": _reference_runs(figures) if figures.reference_runs else "",
        "Start of a job": _starts(figures) if figures.starts else "",
        "Memory of a runner": _memory(figures.memory) if figures.memory else "",
        "Replicas": _replicas(figures) if figures.replicas else "",
        "Latency": _latencies(figures) if figures.latencies else "",
    }
    return "\n\n".join([_origin(figures), *(f"### {title}\n\n{text}" for title, text in parts.items() if text)])


def goals(figures: Figures) -> Iterator[Goal]:
    """Yield every goal that something was measured for; ratios are medians over the repeats."""
    for row in figures.rows:
        if row.name in figures.rates:
            yield from _goals_of_row(row, figures.rates[row.name])
    for row in figures.rows:
        if row.recipe in figures.reference_runs and row.reference_seconds_goal is not None:
            seconds, _ = figures.reference_runs[row.recipe]
            yield below(f"{row.name}: the whole reference run", row.reference_seconds_goal, seconds, "s")
    if figures.starts:
        found = Spread.of(start.seen for start in figures.starts).median * 1_000
        yield below("`POST /jobs` to the first step, median, seen by the client", _START_GOAL_MILLISECONDS, found, "ms")


def _goals_of_row(row: Row, rates: Rates) -> Iterator[Goal]:
    def ratio(loop: str, other: str) -> float:
        return Spread.of_ratios(rates[loop], rates[other]).median

    yield at_least(f"{row.name}: ours / floor", row.floor_goal, ratio(OURS, FLOOR))
    with_checkpoints = f"{row.name}: ours with checkpoints / floor"
    yield at_least(with_checkpoints, row.floor_goal - _CHECKPOINT_MARGIN, ratio(OURS_WITH_CHECKPOINTS, FLOOR))
    if row.textbook_goal is not None:
        fastest = min(ratio(OURS, textbook) for textbook in TEXTBOOKS)
        yield at_least(f"{row.name}: ours / textbook, the faster one", row.textbook_goal, fastest)
    if SIDE_BY_SIDE in rates:
        yield at_least(f"{row.name}: two jobs together / one alone", 1.0, ratio(SIDE_BY_SIDE, OURS))


def _origin(figures: Figures) -> str:
    found = figures.environment
    gpu = f"{found.gpu}, {(found.gpu_memory_bytes or 0) / _GIB:.0f} GiB" if found.gpu else "none"
    software = {"Python": found.python, "torch": found.torch, "torchvision": found.torchvision}
    software |= {"CUDA": found.cuda} if found.gpu else {}
    software |= {"Lightning": version("lightning")} if lightning_is_installed() else {}
    facts = machine() | {
        "GPU": gpu,
        "software": ", ".join(f"{name} {number}" for name, number in software.items() if number),
        "images": figures.images,
        "command": f"`{figures.command}`",
        "measured": f"{figures.date}, n = {figures.repeats} of each, interleaved; median (lowest to highest)",
    }
    return table(["", ""], facts.items())


def _loops(figures: Figures) -> str:
    lines = []
    for name, rates in figures.rates.items():
        for loop, values in rates.items():
            ratio = Spread.of_ratios(values, rates[FLOOR]).show(".2f")
            lines.append([name, loop, Spread.of(values).show(), ratio])
    agreement = max(figures.agreement.values(), default=0.0)
    return (
        table(["network/batch", "loop", "images/s", "of the floor"], lines)
        + f"\n\nLosses after the same steps differ between the loops by at most {agreement:.0e} of their value."
        + ("" if lightning_is_installed() else _NO_LIGHTNING)
    )


def _reference_runs(figures: Figures) -> str:
    lines = []
    for recipe, (seconds, training) in figures.reference_runs.items():
        lines.append([recipe, f"{seconds:.1f}", f"{training:.1f}"])
    return table(["recipe, all epochs, n = 1", "seconds of `fit`, validation included", "of them training"], lines)


def _starts(figures: Figures) -> str:
    starts, fresh = figures.starts, figures.fresh_processes
    lines = {
        "`POST /jobs` to the first epoch seen by the client, less that epoch": [start.seen for start in starts],
        "of that the runner's `setup_seconds`": [start.setup for start in starts],
        "start of a new Python process to its first step": fresh,
    }
    heads = ["", "n", "ms"]
    return table(
        heads,
        [
            [what, str(len(seconds)), Spread.of(1_000 * each for each in seconds).show()]
            for what, seconds in lines.items()
        ],
    )


def _memory(memory: Memory) -> str:
    resident, own = memory.resident / _MIB, memory.own / _MIB
    return f"A runner of lenet with CIFAR-10 loaded as uint8: {resident:,.0f} MiB resident, {own:,.0f} MiB its own."


def _replicas(figures: Figures) -> str:
    together, in_turn = figures.replicas["together"], figures.replicas["in turn"]
    lines = [
        ["one job with replicas", Spread.of(together).show(), Spread.of_ratios(together, in_turn).show(".2f")],
        ["as many jobs in turn", Spread.of(in_turn).show(), "1.00"],
    ]
    return table([figures.replicas_of, f"images/s, all counted, n = {len(together)}", "of jobs in turn"], lines)


def _latencies(figures: Figures) -> str:
    lines, repeats = [], 0
    for (name, size), values in figures.latencies.items():
        repeats = len(values)
        measured, bare = ([1e6 * value for value in column] for column in zip(*values, strict=True))
        overhead = Spread.of_ratios(measured, bare).show(".2f")
        lines.append([name, str(size), Spread.of(measured).show(",.1f"), Spread.of(bare).show(",.1f"), overhead])
    in_result = f"µs of a pass in a result, n = {repeats}"
    return table(["network/batch", "batch size", in_result, "µs in a bare loop", "ratio"], lines)
