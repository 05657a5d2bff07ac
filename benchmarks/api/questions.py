"""What is asked of the servers: one table of comparisons, and the requests behind each cell."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from benchmarks.api import library
from benchmarks.api.client import Answer, Asker, connected, request, run
from benchmarks.api.library import SPEC, Jobs
from benchmarks.api.load import Load
from benchmarks.api.servers import Ours, Server, Servers
from benchmarks.api.setting import EPOCHS, LEAST_ACCURACY, METRICS, PAGE
from benchmarks.processes import MeasurementFailed

OURS, MLFLOW, BARE = "ours", "MLflow", "bare"


@dataclass(frozen=True)
class Comparison:
    """A line of the table: what each server is asked, and how many times theirs ours is to answer, at least."""

    name: str
    ours: str
    mlflow: str
    bare: str
    mlflow_goal: float
    bare_goal: float | None = None

    @property
    def cells(self) -> dict[str, str]:
        """What is asked, by server."""
        return {OURS: self.ours, MLFLOW: self.mlflow, BARE: self.bare}


_SUBMIT = Comparison("submit", "submit", "create a run", "insert", 6, 0.4)
_HISTORY = ("history of one metric", "all lines")
COMPARISONS = {
    "submit": (_SUBMIT,),
    "read": (
        Comparison("300 epochs of a job that runs", "epochs of a running job", *_HISTORY, 12, 0.6),
        Comparison("300 epochs of a job that has ended", "epochs of an ended job", *_HISTORY, 12, 0.6),
        Comparison("the same, unchanged (304)", "unchanged epochs", _HISTORY[0], "unchanged lines", 30),
        Comparison("the last two epochs (`after`)", "last two epochs", _HISTORY[0], "last two lines", 30),
    ),
    "list": (Comparison("the newest 100 with a filter", "list", "search runs", "newest rows", 30),),
}

Questions = dict[tuple[str, str], Load]


def to_submit(servers: Servers) -> Questions:
    """Return how a job, a run and a row are made."""
    ours, bare, mlflow = servers.ours, servers.bare, servers.mlflow
    job = request("POST", "/jobs", ours.headers, SPEC)
    asked = {
        (OURS, "submit"): Load(ours.port, [job], 201),
        (BARE, "insert"): Load(bare.port, [request("POST", "/rows", None, SPEC)], 201),
    }
    if mlflow is not None:
        run_ = {"experiment_id": library.new_experiment(mlflow, "submits"), "run_name": "benchmark", "start_time": 1}
        asked[MLFLOW, "create a run"] = _of_mlflow(mlflow, "runs/create", run_)
    return asked


def to_read(servers: Servers, jobs: Jobs, runs: Sequence[str]) -> Questions:
    """Return how epochs are read; raise MeasurementFailed unless the answers hold as much as they should."""
    ours, bare = servers.ours, servers.bare
    running, ended = ([f"/jobs/{job}/metrics" for job in ids] for ids in (jobs.running, jobs.ended))
    rows = [f"/rows/{row}/lines" for row in range(1, len(running) + 1)]
    asked = {
        (OURS, "epochs of a running job"): _gets(ours, running),
        (OURS, "epochs of an ended job"): _gets(ours, ended),
        (OURS, "unchanged epochs"): _unchanged(ours, running),
        (OURS, "last two epochs"): _gets(ours, [f"{path}?after={EPOCHS - 2}" for path in running]),
        (BARE, "all lines"): _gets(bare, rows),
        (BARE, "unchanged lines"): Load(
            bare.port, [request("GET", path, {"If-None-Match": f'"{EPOCHS}"'}) for path in rows], 304
        ),
        (BARE, "last two lines"): _gets(bare, [f"{path}?after={EPOCHS - 2}" for path in rows]),
    }
    for name in ("epochs of a running job", "epochs of an ended job"):
        _expect(asked[OURS, name], "epochs", EPOCHS, set(METRICS))
    _expect(asked[OURS, "last two epochs"], "epochs", 2, set(METRICS))
    _expect(asked[BARE, "all lines"], "items", EPOCHS, set(METRICS))
    _expect(asked[BARE, "last two lines"], "items", 2, set(METRICS))
    if servers.mlflow is not None:
        path = "/api/2.0/mlflow/metrics/get-history?metric_key=validation_accuracy&run_id="
        histories = asked[MLFLOW, "history of one metric"] = _gets(
            servers.mlflow, [f"{path}{run_id}" for run_id in runs]
        )
        _expect(histories, "metrics", EPOCHS, {"value", "step"})
    return asked


def _our_list(ours: Ours) -> Load:
    """Return how our newest jobs with a high accuracy are listed."""
    threshold = quote(f"best.validation_accuracy>={LEAST_ACCURACY}", safe="=")
    return _gets(ours, [f"/jobs?limit={PAGE}&{threshold}"])


def shown_items(ours: Ours) -> list[str]:
    """Return the JSON texts of the jobs on the first page of our list."""
    return [json.dumps(item, separators=(",", ":")) for item in _asked_once(_our_list(ours)).read()["items"]]


def to_list(servers: Servers, experiment: str) -> Questions:
    """Return how the newest are listed; raise MeasurementFailed unless they are a full page."""
    listed = _our_list(servers.ours)
    asked = {
        (OURS, "list"): listed,
        (BARE, "newest rows"): _gets(servers.bare, [f"/rows?limit={PAGE}&score={LEAST_ACCURACY}"]),
    }
    _expect(listed, "items", PAGE, {"best", "spec"})
    _expect(asked[BARE, "newest rows"], "items", PAGE, {"best", "spec"})
    if servers.mlflow is not None:
        search = {
            "experiment_ids": [experiment],
            "filter": f"metrics.validation_accuracy >= {LEAST_ACCURACY}",
            "max_results": PAGE,
        }
        searched = asked[MLFLOW, "search runs"] = _of_mlflow(servers.mlflow, "runs/search", search)
        _expect(searched, "runs", PAGE, {"info", "data"})
    return asked


def to_log(mlflow: Server, run_id: str) -> Load:
    """Return how MLflow is told of all epochs, one by one, with six metrics each."""
    bodies = [{"run_id": run_id, "metrics": library.metrics(epoch)} for epoch in range(1, EPOCHS + 1)]
    return _of_mlflow(mlflow, "runs/log-batch", *bodies)


def _asked_once(load: Load) -> Answer:
    """Ask the first of the requests; return its answer."""

    async def ask() -> Answer:
        async with connected(load.port, [Asker]) as (asker,):
            return await asker.ask(load.requests[0])

    return run(ask())


def _expect(load: Load, name: str, count: int, fields: set[str]) -> None:
    items: list[Mapping[str, Any]] = _asked_once(load).read(load.status)[name]
    if len(items) != count or not all(fields <= item.keys() for item in items):
        raise MeasurementFailed(f"{load.requests[0]!r}: {len(items)} {name}, {count} with {fields} were expected")


def _gets(server: Server, paths: Sequence[str]) -> Load:
    headers = server.headers if isinstance(server, Ours) else None
    return Load(server.port, [request("GET", path, headers) for path in paths])


def _unchanged(ours: Ours, paths: Sequence[str]) -> Load:
    """Return the same requests by who has had the answer already."""
    requests = []
    for path in paths:
        tag = _asked_once(_gets(ours, [path])).etag
        if tag is None:
            raise MeasurementFailed(f"{path} has no ETag")
        requests.append(request("GET", path, {**ours.headers, "If-None-Match": tag}))
    return Load(ours.port, requests, 304)


def _of_mlflow(mlflow: Server, path: str, *bodies: dict[str, Any]) -> Load:
    requests = [request("POST", f"/api/2.0/mlflow/{path}", None, body) for body in bodies]
    return Load(mlflow.port, requests, may_fail=True)
