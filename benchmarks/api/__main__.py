"""`python -m benchmarks.api`: measure our API beside MLflow and beside a bare service, and write the page."""

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

from benchmarks.api.bench import PARTS, Bench
from benchmarks.api.client import allow_many_files
from benchmarks.api.page import Figures, write
from benchmarks.api.servers import MLFLOWS, Servers, mlflow_version
from benchmarks.api.setting import FULL, QUICK, Scale
from benchmarks.command import PAGE, publish, run, say
from benchmarks.processes import MeasurementFailed
from local.children import StackError

_SECTION = "api"
_SOFTWARE = ("fastapi", "uvicorn", "pydantic", "sqlalchemy", "psycopg")


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    scale: Scale
    parts: list[str]
    mlflow: str | None
    quick: bool
    output: Path | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write; return the exit status."""
    options = _read(arguments)
    figures = Figures(options.scale, _command(options), f"{datetime.now(UTC):%Y-%m-%d}", _software(options.mlflow))
    allow_many_files()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="trainyard-bench-") as folder,
            Bench.clients() as clients,
            Servers.started(Path(folder), options.mlflow) as servers,
        ):
            Bench(servers, clients, figures, say).measure(options.parts)
    except (MeasurementFailed, StackError, httpx2.HTTPError) as error:
        print(error, file=sys.stderr)
        return 1
    publish(write(figures), _SECTION, options.output)
    return 0


def _read(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.api", description=__doc__)
    parser.add_argument("--rounds", type=int, help=f"of everything (default: {FULL.rounds})")
    parser.add_argument("--seconds", type=float, help=f"of each measurement (default: {FULL.seconds:g})")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--mlflow", choices=MLFLOWS, default=MLFLOWS[0], help="its event loop (default: %(default)s)")
    which.add_argument("--without-mlflow", dest="mlflow", action="store_const", const=None)
    parser.add_argument("--quick", action="store_true", help="a little of each, once: that it runs, not how fast")
    parser.add_argument("--output", type=Path, help="the page that is written; with --quick none, unless named")
    found = parser.parse_args(arguments)
    scale = QUICK if found.quick else FULL
    scale = replace(scale, rounds=found.rounds or scale.rounds, seconds=found.seconds or scale.seconds)
    output = found.output or (None if found.quick else PAGE)
    return Options(scale, found.parts, found.mlflow, found.quick, output)


def _command(options: Options) -> str:
    """Return how to measure the same again."""
    arguments = ["--quick"] if options.quick else []
    arguments += [f"--rounds {options.scale.rounds}", f"--seconds {options.scale.seconds:g}"]
    if options.parts != list(PARTS):
        arguments.append(f"--parts {' '.join(options.parts)}")
    if options.mlflow != MLFLOWS[0]:
        arguments.append(f"--mlflow '{options.mlflow}'" if options.mlflow else "--without-mlflow")
    return f'make bench-api ARGS="{" ".join(arguments)}"'


def _software(mlflow: str | None) -> dict[str, str]:
    found = {"Python": platform.python_version(), **{name: version(name) for name in _SOFTWARE}}
    return found | ({"MLflow": f"{mlflow_version()} {mlflow}"} if mlflow else {})


if __name__ == "__main__":
    run(main)
