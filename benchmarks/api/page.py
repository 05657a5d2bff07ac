"""What is written of a run: its tables, the goals beside what was found, and what it ran on."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.api.followers import Polling, Streams, Waiting
from benchmarks.api.questions import BARE, COMPARISONS, MLFLOW, OURS, Comparison
from benchmarks.api.setting import CLIENTS, EPOCHS, Scale
from benchmarks.machine import machine
from benchmarks.tables import Goal, Spread, at_least, below, percentile, table

_RECORDING_GOAL = 5.0
_LATE_MILLISECONDS = 1_000.0
_POLLING_GOAL_CORES = 0.25
_CONNECTIONS = 10 + 5 + 1  # two pools, of these sizes by default, and the connection that listens
_MIB = 2**20


@dataclass(frozen=True)
class Measured:
    """One server under one load, round by round: answers per second, and seconds of the median and the 95th in 100."""

    rates: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p95: list[float] = field(default_factory=list)

    def add(self, rate: float, latencies: Sequence[float]) -> None:
        """Add a round."""
        self.rates.append(rate)
        self.p50.append(percentile(latencies, 50))
        self.p95.append(percentile(latencies, 95))


Cell = tuple[str, str, int]  # the server, what it is asked, and the number of clients


@dataclass
class Figures:
    """What was measured; what was not is empty. `recording` is seconds of all epochs by server, round by round."""

    scale: Scale
    command: str
    date: str
    software: dict[str, str]
    answers: dict[Cell, Measured] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)  # answers by server
    client_cores: float = 0.0
    recording: dict[str, list[float]] = field(default_factory=dict)
    streams: Streams | None = None
    polling: Polling | None = None
    waiting: Waiting | None = None


def write(figures: Figures) -> str:
    """Return the section in Markdown."""
    goals_ = [goal.cells() for goal in goals(figures)]
    parts = {
        "Goals of the API": table(["goal", "wanted", "found", "reached"], goals_),
        "Answers per second": _rates(figures) if figures.answers else "",
        "Time of an answer": _latencies(figures) if figures.answers else "",
        "Epochs on their way in": _recording(figures) if figures.recording else "",
        "Followers": _followers(figures),
    }
    return "\n\n".join([_origin(figures), *(f"### {title}\n\n{text}" for title, text in parts.items() if text)])


def goals(figures: Figures) -> Iterator[Goal]:
    """Yield every goal that something was measured for; ratios are medians over the rounds, the lowest one counts."""
    for comparison in _compared(figures):
        if ratios := _ratios(figures, comparison, MLFLOW):
            yield _lowest(f"{comparison.name}: ours / MLflow", comparison.mlflow_goal, ratios)
        if comparison.bare_goal is not None:
            ratios = _ratios(figures, comparison, BARE)
            yield _lowest(f"{comparison.name}: ours / bare", comparison.bare_goal, ratios)
    for comparison in _compared(figures):
        yield from _goal_of_latency(figures, comparison)
    if MLFLOW in figures.recording:
        found = Spread.of_ratios(figures.recording[MLFLOW], figures.recording[OURS]).median
        yield at_least("record an epoch: ours / MLflow", _RECORDING_GOAL, found)
    yield from _goals_of_followers(figures)


def _lowest(what: str, wanted: float, ratios: dict[int, Spread]) -> Goal:
    clients, spread = min(ratios.items(), key=lambda item: item[1].median)
    goal = at_least(what, wanted, spread.median)
    return Goal(goal.what, goal.wanted, f"{goal.found} at {_clients(clients)}", goal.reached)


def _goal_of_latency(figures: Figures, comparison: Comparison) -> Iterator[Goal]:
    """Yield that our slow answers to many come sooner than MLflow's usual ones to a single client."""
    theirs = figures.answers.get((MLFLOW, comparison.mlflow, CLIENTS[0]))
    if theirs is not None:
        ours = figures.answers[OURS, comparison.ours, CLIENTS[-1]]
        wanted, found = (1_000 * Spread.of(values).median for values in (theirs.p50, ours.p95))
        what = f"{comparison.name}: our p95 at {CLIENTS[-1]} clients / MLflow's p50 at one"
        yield below(what, wanted, found, "ms", digits=1)


def _goals_of_followers(figures: Figures) -> Iterator[Goal]:
    if streams := figures.streams:
        whole = len(streams.latencies) == streams.expected and not streams.repeated
        found = f"{len(streams.latencies):,}, {streams.repeated:,} repeated"
        what = f"{streams.clients:,} streams: epochs that arrive, each once"
        yield Goal(what, f"{streams.expected:,}, 0 repeated", found, whole)
        latest = 1_000 * max(streams.latencies, default=math.inf)
        yield below(f"{streams.clients:,} streams: the latest of them", _LATE_MILLISECONDS, latest, "ms")
    if polling := figures.polling:
        what = f"{polling.scripts:,} scripts that ask each second: CPU of the API"
        yield below(what, _POLLING_GOAL_CORES, polling.cores, "cores", digits=2)
    if waiting := figures.waiting:
        what = f"{waiting.readers:,} readers that wait"
        most = Goal(
            f"{what}: connections of the API",
            f"at most {_CONNECTIONS}",
            f"{waiting.connections}",
            waiting.connections <= _CONNECTIONS,
        )
        yield most
        yield Goal(f"{what}: of them in use", "none", f"{waiting.in_transaction}", waiting.in_transaction == 0)


def _origin(figures: Figures) -> str:
    scale = figures.scale
    facts = machine() | {
        "software": ", ".join(f"{name} {number}" for name, number in figures.software.items()),
        "command": f"`{figures.command}`",
        "measured": f"{figures.date}, n = {scale.rounds} rounds of {scale.seconds:g} s each, interleaved; "
        "median (lowest to highest)",
    }
    return table(["", ""], facts.items())


def _rates(figures: Figures) -> str:
    lines = []
    for comparison, clients in _lines(figures):
        rates = [_show(figures, (server, asked, clients)) for server, asked in comparison.cells.items()]
        ratios = [_ratios(figures, comparison, other).get(clients) for other in (MLFLOW, BARE)]
        lines.append([comparison.name, str(clients), *rates, *(each.show(",.2f") if each else "" for each in ratios)])
    heads = ["", "clients", *(f"{server}, 1/s" for server in (OURS, MLFLOW, BARE)), "ours / MLflow", "ours / bare"]
    notes = [f"The clients used at most {figures.client_cores:.2f} of a core."]
    notes += [f"{count:,} answers of {server} were errors, and are not counted." for server, count in _failed(figures)]
    return f"{table(heads, lines)}\n\n{' '.join(notes)}"


def _latencies(figures: Figures) -> str:
    lines = []
    for comparison, clients in _lines(figures):
        found = [figures.answers.get((server, asked, clients)) for server, asked in comparison.cells.items()]
        lines.append([comparison.name, str(clients), *(_milliseconds(each) if each else "" for each in found)])
    return table(["ms, p50 / p95", "clients", OURS, MLFLOW, BARE], lines)


def _recording(figures: Figures) -> str:
    ours = figures.recording[OURS]
    lines = []
    for server, seconds in figures.recording.items():
        rates = Spread.of(EPOCHS / each for each in seconds)
        lines.append([server, rates.show(), Spread.of_ratios(seconds, ours).show(",.2f")])
    return table([f"{EPOCHS} epochs one by one", "epochs/s", "ours is so many times as fast"], lines)


def _followers(figures: Figures) -> str:
    lines = {}
    if streams := figures.streams:
        before, with_ = (size / _MIB for size in (streams.resident_before, streams.resident_with))
        lines[f"{streams.clients:,} streams: an epoch, from just before it is recorded until it is read"] = _times(
            streams.latencies
        )
        lines["memory of the API's process before, and with the streams"] = f"{before:,.0f} MiB, {with_:,.0f} MiB"
    if polling := figures.polling:
        lines[f"{polling.scripts:,} scripts that ask each second: answers, and those with an epoch"] = (
            f"{polling.answers:,}, {polling.news:,}"
        )
        lines["CPU of the API's process"] = f"{polling.cores:.3f} cores"
    if waiting := figures.waiting:
        lines[f"{waiting.readers:,} readers that wait: the epoch that comes, as above"] = _times(waiting.latencies)
        lines["connections of the API to the database meanwhile, of them in use"] = (
            f"{waiting.connections}, {waiting.in_transaction}"
        )
    return table(["those who follow one running job", "found"], lines.items()) if lines else ""


def _compared(figures: Figures) -> Iterator[Comparison]:
    """Yield those that were measured."""
    for comparisons in COMPARISONS.values():
        for comparison in comparisons:
            if (OURS, comparison.ours, CLIENTS[0]) in figures.answers:
                yield comparison


def _lines(figures: Figures) -> Iterator[tuple[Comparison, int]]:
    for comparison in _compared(figures):
        for clients in CLIENTS:
            yield comparison, clients


def _ratios(figures: Figures, comparison: Comparison, other: str) -> dict[int, Spread]:
    """Return ours / theirs by the number of clients; empty where theirs was not measured."""
    pairs = {
        clients: (figures.answers[OURS, comparison.ours, clients], figures.answers.get((other, asked, clients)))
        for clients in CLIENTS
        for asked in [comparison.cells[other]]
    }
    return {clients: Spread.of_ratios(ours.rates, theirs.rates) for clients, (ours, theirs) in pairs.items() if theirs}


def _failed(figures: Figures) -> list[tuple[str, int]]:
    return [(server, count) for server, count in figures.failed.items() if count]


def _show(figures: Figures, cell: Cell) -> str:
    measured = figures.answers.get(cell)
    return Spread.of(measured.rates).show() if measured else ""


def _milliseconds(measured: Measured) -> str:
    p50, p95 = (1_000 * Spread.of(values).median for values in (measured.p50, measured.p95))
    return f"{p50:,.1f} / {p95:,.1f}"


def _times(seconds: Sequence[float]) -> str:
    if not seconds:
        return "none"
    half, most = (1_000 * percentile(seconds, percent) for percent in (50, 99))
    return f"p50 {half:,.0f} ms, p99 {most:,.0f} ms, latest {1_000 * max(seconds):,.0f} ms"


def _clients(number: int) -> str:
    return f"{number} client{'s' if number > 1 else ''}"
