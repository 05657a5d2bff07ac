"""`python -m benchmarks.training`: measure our training against others and against the floor, and write the page."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.command import PAGE, publish, run, say
from benchmarks.images import Images, place_images
from benchmarks.loops import Bench
from benchmarks.page import Figures, write
from benchmarks.processes import MeasurementFailed
from benchmarks.rows import CPU_ROWS, GPU_ROWS, Row
from benchmarks.service import IdleService, seconds_of_fresh_process
from benchmarks.setting import Setting
from local.children import StackError
from models.errors import TrainyardError
from worker.processor import usable_cores

_PARTS = ("loops", "start", "memory", "latency", "replicas", "reference")
_REPLICAS = 8
_STEPS_OF_REPLICAS = 40
_QUICK_STEPS = 1
_ALL_IMAGES = 50_000
_REPEATS, _JOBS = 5, 20
_QUICK_REPEATS, _QUICK_JOBS = 1, 3
_MOST_REPEATS_OF_SMALL_PARTS = 3  # latency, replicas and fresh processes, whose single measurements are long


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    cifar10: Path | None
    device: str
    networks: list[str]
    parts: list[str]
    repeats: int
    jobs: int
    images: int
    quick: bool
    output: Path | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write; return the exit status."""
    options = _read(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as folder:
            device, text = _measure(options, Path(folder))
    except (MeasurementFailed, StackError, TrainyardError) as error:
        print(error, file=sys.stderr)
        return 1
    publish(text, "gpu" if device == "cuda" else "cpu", options.output)
    return 0


def _measure(options: Options, folder: Path) -> tuple[str, str]:
    """Return the device that was measured, and what was found in Markdown."""
    repeats_of_small = min(options.repeats, _MOST_REPEATS_OF_SMALL_PARTS)
    images = place_images(folder, options.cifar10, options.images)
    with Bench.started(options.repeats, say) as bench:
        machine = bench.environment(options.device)
        settings = [
            Setting(row, images, machine.device, threads=usable_cores()) for row in _rows(options, machine.device)
        ]
        figures = Figures(
            environment=machine,
            rows=[setting.row for setting in settings],
            repeats=options.repeats,
            command=_command(options),
            date=f"{datetime.now(UTC):%Y-%m-%d}",
            images="CIFAR-10, decoded from JPEG files" if images.from_cifar10 else "random pixels in CIFAR-10's shape",
        )
        if "loops" in options.parts:
            figures.agreement = bench.agreement(settings)
            figures.rates = bench.rates(settings)
        if "latency" in options.parts:
            figures.latencies = bench.latencies(settings, repeats_of_small)
        if "replicas" in options.parts:
            setting = settings[0]
            if machine.device == "cpu":
                setting = replace(setting, row=setting.row.shortened(_STEPS_OF_REPLICAS))
            figures.replicas_of = f"{_REPLICAS} of {setting.row.name}"
            figures.replicas = bench.replicas(setting, _REPLICAS, repeats_of_small)
        if "reference" in options.parts and machine.device == "cuda":
            runs = [setting for setting in settings if setting.row.reference_seconds_goal is not None]
            figures.reference_runs = {setting.row.recipe: bench.reference_run(setting) for setting in runs}
    if {"start", "memory"} & set(options.parts):
        _measure_service(options, folder, images, figures, repeats_of_small)
    return machine.device, write(figures)


def _measure_service(options: Options, folder: Path, images: Images, figures: Figures, repeats: int) -> None:
    with IdleService.started(folder, images) as service:
        if "start" in options.parts:
            figures.starts = [service.start_of_a_job() for _ in range(options.jobs)]
            figures.fresh_processes = [seconds_of_fresh_process() for _ in range(repeats)]
            say("start of jobs measured")
        if "memory" in options.parts and images.from_cifar10:
            figures.memory = service.memory_with_cifar10()
            say("memory of a runner measured")


def _rows(options: Options, device: str) -> list[Row]:
    rows = [row for row in (GPU_ROWS if device == "cuda" else CPU_ROWS) if row.recipe in options.networks]
    rows = [replace(row, images=min(row.images, options.images)) for row in rows]
    return [row.shortened(_QUICK_STEPS) for row in rows] if options.quick else rows


def _read(arguments: Sequence[str] | None) -> Options:
    networks = [row.recipe for row in CPU_ROWS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--cifar10", type=Path, help="a tree of CIFAR-10 with train/<class>/* and test/<class>/*")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--networks", nargs="+", choices=networks, default=networks)
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=list(_PARTS))
    parser.add_argument("--repeats", type=int, default=_REPEATS)
    parser.add_argument("--jobs", type=int, default=_JOBS, help="whose start is measured")
    parser.add_argument("--images", type=int, default=_ALL_IMAGES, help="at most, in an epoch")
    parser.add_argument("--quick", action="store_true", help="a few steps of each, once: that it runs, not how fast")
    parser.add_argument("--output", type=Path, help="the page that is written; with --quick none, unless named")
    found = parser.parse_args(arguments)
    if found.quick:
        found.repeats, found.jobs = _QUICK_REPEATS, _QUICK_JOBS
    elif found.output is None:
        found.output = PAGE
    return Options(**vars(found))


def _command(options: Options) -> str:
    """Return how to measure the same again, without paths of this machine."""
    arguments = [f"--device {options.device}"] if options.device != "auto" else []
    if options.networks != [row.recipe for row in CPU_ROWS]:
        arguments.append(f"--networks {' '.join(options.networks)}")
    if options.parts != list(_PARTS):
        arguments.append(f"--parts {' '.join(options.parts)}")
    arguments += ["--quick"] if options.quick else [f"--repeats {options.repeats}", f"--jobs {options.jobs}"]
    if options.images != _ALL_IMAGES:
        arguments.append(f"--images {options.images}")
    tree = " CIFAR10=<tree>" if options.cifar10 else ""
    return f'make bench-training{tree} ARGS="{" ".join(arguments)}"'


if __name__ == "__main__":
    run(main)
