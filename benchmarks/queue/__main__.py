"""`python -m benchmarks.queue`: measure the claims of a long line, and how soon a submitted job has a worker."""

import argparse
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import httpx2

from benchmarks.command import PAGE, publish, run, say
from benchmarks.processes import MeasurementFailed
from benchmarks.queue import claims, submissions
from benchmarks.queue.page import Figures, write
from benchmarks.queue.setting import FULL, QUICK, Scale
from local.children import StackError
from local.stack import Stack

_SECTION = "queue"
_SOFTWARE = ("sqlalchemy", "psycopg")


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    scale: Scale
    quick: bool
    output: Path | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write; return the exit status."""
    options = _read(arguments)
    software = {"Python": platform.python_version(), **{name: version(name) for name in _SOFTWARE}}
    figures = Figures(options.scale, _command(options), f"{datetime.now(UTC):%Y-%m-%d}", software)
    try:
        with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as folder:
            figures.claims = _measure_claims(Path(folder), options.scale)
            figures.submissions = submissions.measure(Path(folder), options.scale, say)
    except (MeasurementFailed, StackError, httpx2.HTTPError) as error:
        print(error, file=sys.stderr)
        return 1
    publish(write(figures), _SECTION, options.output)
    return 0


def _measure_claims(folder: Path, scale: Scale) -> claims.Claims:
    stack = Stack(folder / "claims")
    try:
        stack.start(services=False)  # nobody else claims
        return claims.measure(stack.database_url, scale, say)
    finally:
        stack.stop()


def _read(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queue", description=__doc__)
    parser.add_argument("--claims", type=int, help=f"of each kind and length (default: {FULL.claims})")
    parser.add_argument("--submissions", type=int, help=f"of each kind (default: {FULL.submissions})")
    parser.add_argument("--quick", action="store_true", help="a little of each: that it runs, not how fast")
    parser.add_argument("--output", type=Path, help="the page that is written; with --quick none, unless named")
    found = parser.parse_args(arguments)
    scale = QUICK if found.quick else FULL
    scale = replace(scale, claims=found.claims or scale.claims, submissions=found.submissions or scale.submissions)
    return Options(scale, found.quick, found.output or (None if found.quick else PAGE))


def _command(options: Options) -> str:
    """Return how to measure the same again."""
    arguments = ["--quick"] if options.quick else []
    arguments += [f"--claims {options.scale.claims}", f"--submissions {options.scale.submissions}"]
    return f'make bench-queue ARGS="{" ".join(arguments)}"'


if __name__ == "__main__":
    run(main)
