"""The demonstration: a service of its own trains a LeNet on handwritten digits, and is used over HTTP alone."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from local.stack import Stack
from models.result import Result

_EPOCHS = 12
_SPEC = {
    "name": "demo",
    "dataset": {"name": "digits", "resize": 32},
    "network": {"name": "lenet"},
    "training": {
        "epochs": _EPOCHS,
        "batch_size": 64,
        "seed": 7,
        "optimizer": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9},
    },
}
_WAIT_SECONDS = 10  # how long the API may hold an answer that has no news
_LOG_LINES = 20
_COLORS = {"info": "cyan", "warning": "yellow", "error": "red"}


def demo() -> int:
    """Start a service in a temporary directory, run one job, print its result; return the exit status."""
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="trainyard-demo-") as folder:
        console.print("Starting a Trainyard of its own in a temporary directory")
        with Stack(Path(folder), announce=lambda line: console.print(f"  {line}")) as stack:
            console.print(f"Trainyard is ready at {stack.base_url}\n")
            with stack.client(timeout=_WAIT_SECONDS + 20) as client:
                succeeded = _run_job(client, console)
        console.print("Everything is stopped.")
    return 0 if succeeded else 1


def _run_job(client: httpx2.Client, console: Console) -> bool:
    """Submit the job, follow it, and show how it ended; return whether it succeeded."""
    job = _read(client.post("/jobs", json=_SPEC))
    console.print(f"POST /jobs: job {job['id']} is {job['status']}")
    for epoch in _epochs(client, job["id"]):
        console.print(_progress(epoch))
    job = _read(client.get(f"/jobs/{job['id']}"))
    if job["status"] == "succeeded":
        _show(Result.model_validate(_read(client.get(f"/jobs/{job['id']}/result"))), console)
        return True
    console.print(f"\n[red]The job is {job['status']}[/red] ({job['reason']}): {escape(job['message'] or '')}")
    entries = _read(client.get(f"/jobs/{job['id']}/logs"))["entries"]
    log = "".join(entry["text"] for entry in entries).splitlines()
    console.print("\n".join(log[-_LOG_LINES:]), markup=False)
    return False


def _epochs(client: httpx2.Client, job_id: str) -> Iterator[dict[str, Any]]:
    """Yield the metrics of each epoch as they come, until the job has ended."""
    after, terminal = 0, False
    while not terminal:
        news = _read(client.get(f"/jobs/{job_id}/metrics", params={"after": after, "wait": _WAIT_SECONDS}))
        yield from news["epochs"]
        after, terminal = news["next"], news["terminal"]


def _read(response: httpx2.Response) -> dict[str, Any]:
    """Return the body of a successful answer."""
    body: dict[str, Any] = response.raise_for_status().json()
    return body


def _progress(epoch: dict[str, Any]) -> str:
    return (
        f"epoch {epoch['epoch']:>2}/{_EPOCHS}"
        f"  train loss {epoch['train_loss']:.3f} acc {epoch['train_accuracy']:6.1%}"
        f"  val loss {epoch['validation_loss']:.3f} acc {epoch['validation_accuracy']:6.1%}"
        f"  {epoch['seconds']:.2f} s"
    )


def _show(result: Result, console: Console) -> None:
    """Print a result as tables."""
    for table in (_splits(result), _times(result), _layers(result), _classes(result)):
        console.print()
        console.print(table)
    console.print()
    for diagnosis in result.diagnosis:
        color = _COLORS[diagnosis.level]
        console.print(f"[{color}]{diagnosis.level}[/{color}] {escape(f'{diagnosis.code}: {diagnosis.message}')}")


def _splits(result: Result) -> Table:
    table = _table(f"Loss and accuracy after {len(result.curves.epoch)} epochs", "split", "samples", "loss", "accuracy")
    for split in ("train", "validation", "test"):
        samples = result.dataset.splits[split].samples
        loss, accuracy = getattr(result.loss, split), getattr(result.accuracy, split)
        table.add_row(split, f"{samples:,}", f"{loss:.4f}", f"{accuracy:.2%}")
    table.caption = f"best epoch {result.best_epoch}, worst epoch {result.worst_epoch}"
    return table


def _times(result: Result) -> Table:
    timing, latency = result.timing, result.timing.latency
    table = _table("Time", "what", "seconds")
    for what in ("queued", "setup", "training", "evaluation", "total"):
        table.add_row(what, f"{getattr(timing, f'{what}_seconds'):.3f}")
    table.add_row("epoch, median", f"{timing.epoch_seconds.median:.3f}")
    for batch in (latency.batch_1, latency.batch_100):
        what = f"latency per sample at batch size {batch.batch_size}"
        table.add_row(f"{what}, median", f"{batch.median_seconds_per_sample:.6f}")
        table.add_row(f"{what}, p95", f"{batch.p95_seconds_per_sample:.6f}")
    table.caption = f"{timing.samples_per_second:,.0f} samples per second on {result.environment.processor}"
    return table


def _layers(result: Result) -> Table:
    table = _table("Parameters and MACs per sample", "layer", "output", "parameters", "MACs")
    for layer in result.parameters.layers:
        shape = "x".join(map(str, layer.output_shape))
        table.add_row(layer.kind, shape, f"{layer.parameters:,}", f"{layer.macs:,}")
    table.add_section()
    table.add_row("total", "", f"{result.parameters.total:,}", f"{result.macs_per_sample:,}")
    table.caption = f"{result.flops_per_sample:,} FLOPs per sample (2 x MACs)"
    return table


def _classes(result: Result) -> Table:
    report = result.classification_report
    assert report is not None, "the demonstration is a classification"
    table = _table("Test split, per class", "class", "precision", "recall", "F1", "support")
    for row in report.classes:
        table.add_row(row.label, f"{row.precision:.3f}", f"{row.recall:.3f}", f"{row.f1:.3f}", f"{row.support}")
    table.add_section()
    for name, mean in (("macro average", report.macro_average), ("weighted average", report.weighted_average)):
        table.add_row(name, f"{mean.precision:.3f}", f"{mean.recall:.3f}", f"{mean.f1:.3f}", f"{mean.support}")
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column(first)
    for heading in others:
        table.add_column(heading, justify="right")
    return table
