"""The measurement: round by round, and in each round server by server, every load in a process of its own."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks.api import library, questions
from benchmarks.api.load import Answers
from benchmarks.api.page import Figures, Measured
from benchmarks.api.questions import BARE, MLFLOW, OURS, Questions
from benchmarks.api.servers import Servers
from benchmarks.api.setting import CLIENTS, EPOCHS
from benchmarks.processes import Forker

_SECONDS = 240.0  # for one measurement
PARTS = ("submit", "read", "list", "record", "streams", "polling", "waiting")
_MODULES = [f"benchmarks.api.{name}" for name in ("load", "recording", "followers")]


class Bench:
    """The servers that are measured, where the clients run, and what was found."""

    def __init__(self, servers: Servers, clients: Forker, figures: Figures, say: Callable[[str], None]) -> None:
        """Add to `figures`; `say` is called with a line for each measurement."""
        self._servers, self._clients, self._figures, self._say = servers, clients, figures, say

    @staticmethod
    def clients() -> Forker:
        """Return where the clients run: processes that have imported only what they need."""
        return Forker(_MODULES)

    def measure(self, parts: Sequence[str]) -> None:
        """Measure these parts in the order in which they do not disturb each other."""
        if "submit" in parts:
            self._submit()
        if {"read", "list"} & set(parts):
            self._read_and_list(parts)
        if "record" in parts:
            self._record()
        if "streams" in parts:
            self._figures.streams = self._follow("follow_streams")
        if "polling" in parts:
            self._figures.polling = self._follow("poll")
        if "waiting" in parts:
            self._figures.waiting = self._follow("wait_for_news")

    def _submit(self) -> None:
        """Measure, then forget what was submitted, so that lists are of the library alone."""
        self._ask(questions.to_submit(self._servers))
        library.empty(self._servers.ours, "jobs")
        library.empty(self._servers.bare, "rows")
        if self._servers.mlflow is not None:
            library.empty(self._servers.mlflow, "runs")

    def _read_and_list(self, parts: Sequence[str]) -> None:
        ours, bare, mlflow = self._servers.ours, self._servers.bare, self._servers.mlflow
        count = self._figures.scale.jobs
        jobs = library.fill_ours(ours, count)
        library.fill_bare(bare, questions.shown_items(ours), count)
        experiment, runs = library.fill_mlflow(mlflow, count) if mlflow is not None else ("", [])
        self._say(f"{count:,} jobs made in each server")
        asked: Questions = {}
        if "read" in parts:
            asked |= questions.to_read(self._servers, jobs, runs)
        if "list" in parts:
            asked |= questions.to_list(self._servers, experiment)
        self._ask(asked)

    def _ask(self, asked: Questions) -> None:
        """Ask every question with one client and with many, in each round."""
        scale = self._figures.scale
        for number in range(1, scale.rounds + 1):
            for clients in CLIENTS:
                for (server, question), load in asked.items():
                    found: Answers = self._call("benchmarks.api.load:under_load", load, clients, scale.seconds)
                    cell = self._figures.answers.setdefault((server, question, clients), Measured())
                    cell.add(found.rate, found.latencies)
                    self._figures.client_cores = max(self._figures.client_cores, found.client_cores)
                    self._figures.failed[server] = self._figures.failed.get(server, 0) + found.failed
                    self._say(f"{number}/{scale.rounds} {server}, {question}, {clients}: {found.rate:,.0f}/s")

    def _record(self) -> None:
        scale = self._figures.scale
        for number in range(1, scale.rounds + 1):
            for server, seconds in self._recorded():
                self._figures.recording.setdefault(server, []).append(seconds)
                self._say(f"{number}/{scale.rounds} {server}, record an epoch: {1_000 * seconds / EPOCHS:.2f} ms")

    def _recorded(self) -> Iterator[tuple[str, float]]:
        """Yield by server the seconds of all epochs, one by one, of a new job."""
        ours, bare, mlflow = self._servers.ours, self._servers.bare, self._servers.mlflow
        library.submit(ours)
        yield OURS, self._call("benchmarks.api.recording:record_as_the_worker", ours.sqlalchemy_url)
        if mlflow is not None:
            run_id = library.new_run(mlflow)
            yield MLFLOW, self._call("benchmarks.api.load:one_by_one", questions.to_log(mlflow, run_id))
        library.empty(bare, "lines")
        yield BARE, self._call("benchmarks.api.recording:record_barely", bare.database_url)

    def _follow(self, function: str) -> Any:
        """Return what those who follow a new job have found."""
        self._say(f"{function}: begins")
        library.submit(self._servers.ours)
        return self._call(f"benchmarks.api.followers:{function}", self._servers.ours, self._figures.scale)

    def _call(self, function: str, *arguments: object) -> Any:
        return self._clients.call(function, *arguments, seconds=_SECONDS)
