"""A lab's past in each server: a thousand jobs of 300 epochs, a few made through the front door and copied in SQL."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx2
import psycopg
from psycopg import sql
from uuid_utils.compat import uuid7

from benchmarks.api.client import HOST
from benchmarks.api.recording import Recorder, figures
from benchmarks.api.servers import Ours, Server
from benchmarks.api.setting import EPOCHS, METRICS

SPEC: dict[str, Any] = {
    "name": "benchmark",
    "dataset": {"name": "digits", "resize": 32},
    "network": {"name": "lenet"},
    "training": {
        "epochs": EPOCHS,
        "batch_size": 64,
        "seed": 7,
        "optimizer": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9},
    },
}
_BATCH = 1_000  # metrics that MLflow takes in one request
_READ = 32  # jobs that are read in turn
_SECONDS = 120.0


@dataclass(frozen=True)
class Jobs:
    """Ids of jobs whose epochs are read."""

    running: Sequence[str]
    ended: Sequence[str]


def submit(ours: Ours) -> str:
    """Submit a job; return its id."""
    with _http(ours.port, ours.headers) as http:
        return str(http.post("/jobs", json=SPEC).raise_for_status().json()["id"])


def fill_ours(ours: Ours, jobs: int) -> Jobs:
    """Make so many jobs: half of them run, and half of each kind have a high accuracy, in turn."""
    originals = [_recorded(ours, good=good, ends=ends) for good in (True, False) for ends in (False, True)]
    ids = [str(uuid7()) for _ in range(jobs - len(originals))]
    with psycopg.connect(ours.database_url) as connection:
        _copy(connection, "jobs", "id", "job_id", ids, originals)
    _tidy(ours)
    return Jobs(ids[::4][:_READ], ids[1::4][:_READ])


def fill_mlflow(mlflow: Server, runs: int) -> tuple[str, Sequence[str]]:
    """Make so many runs, of which every other has a high accuracy; return their experiment and some of them."""
    with _http(mlflow.port) as http:
        experiment = new_experiment(mlflow, "library")
        originals = [_logged(http, experiment, good=good) for good in (True, False)]
    ids = [uuid4().hex for _ in range(runs - len(originals))]
    with psycopg.connect(mlflow.database_url) as connection:
        _copy(connection, "runs", "run_uuid", "run_uuid", ids, originals)
    _tidy(mlflow)
    return experiment, ids[:_READ]


def fill_bare(bare: Server, items: Sequence[str], rows: int) -> None:
    """Make so many rows with the texts that our list shows; some of them have 300 lines."""
    lines = [(row, epoch, _line(epoch)) for row in range(1, _READ + 1) for epoch in range(1, EPOCHS + 1)]
    listed = [
        (items[row % len(items)], figures(EPOCHS, good=row % 2 == 0)["validation_accuracy"]) for row in range(rows)
    ]
    with psycopg.connect(bare.database_url) as connection:
        connection.cursor().executemany("INSERT INTO rows (body, score) VALUES (%s, %s)", listed)
        connection.cursor().executemany("INSERT INTO lines VALUES (%s, %s, %s)", lines)
    _tidy(bare)


def new_experiment(mlflow: Server, name: str) -> str:
    """Return the id of a new experiment."""
    with _http(mlflow.port) as http:
        return str(_post(http, "experiments/create", {"name": name})["experiment_id"])


def new_run(mlflow: Server) -> str:
    """Return the id of a new run in the default experiment."""
    with _http(mlflow.port) as http:
        return _new_run(http, "0")


def empty(server: Server, table: str) -> None:
    """Forget all rows of a table, and what belongs to them."""
    with psycopg.connect(server.database_url) as connection:
        connection.execute(sql.SQL("TRUNCATE {} CASCADE").format(sql.Identifier(table)))


def metrics(epoch: int, *, good: bool = True) -> list[dict[str, Any]]:
    """Return the six metrics of an epoch as MLflow takes them."""
    values = figures(epoch, good=good)
    return [
        {"key": name, "value": values[name], "timestamp": 1_790_000_000_000 + 5_000 * epoch, "step": epoch}
        for name in METRICS
    ]


def _recorded(ours: Ours, *, good: bool, ends: bool) -> str:
    """Return the id of a job that a worker has claimed, and whose epochs it has recorded."""
    submitted = submit(ours)
    recorder = Recorder(ours.sqlalchemy_url)
    assert str(recorder.claim.job_id) == submitted, "no other job was queued"
    for epoch in range(1, EPOCHS + 1):
        recorder.add(epoch, good=good)
    if ends:
        recorder.end()
    return submitted


def _logged(http: httpx2.Client, experiment: str, *, good: bool) -> str:
    run_id = _new_run(http, experiment)
    everything = [metric for epoch in range(1, EPOCHS + 1) for metric in metrics(epoch, good=good)]
    for first in range(0, len(everything), _BATCH):
        _post(http, "runs/log-batch", {"run_id": run_id, "metrics": everything[first : first + _BATCH]})
    return run_id


def _new_run(http: httpx2.Client, experiment: str) -> str:
    run = {"experiment_id": experiment, "run_name": "benchmark", "start_time": 1_790_000_000_000}
    return str(_post(http, "runs/create", run)["run"]["info"]["run_id"])


def _line(epoch: int) -> str:
    values = ",".join(f'"{name}":{value}' for name, value in figures(epoch).items())
    return f'{{"epoch":{epoch},{values}}}'


def _copy(
    connection: psycopg.Connection[Any],
    parent: str,
    key: str,
    child_key: str,
    ids: Sequence[str],
    originals: Sequence[str],
) -> None:
    """Copy the originals in turn, with all rows of all tables that point at them, to new ids in this order."""
    connection.execute("SET LOCAL synchronous_commit = off")
    connection.execute("CREATE TEMPORARY TABLE copies (new text, old text) ON COMMIT DROP")
    pairs = [(new, originals[number % len(originals)]) for number, new in enumerate(ids)]
    connection.cursor().executemany("INSERT INTO copies VALUES (%s, %s)", pairs)
    found = connection.execute(
        "SELECT table_name, column_name, udt_name FROM information_schema.columns JOIN information_schema.tables"
        " USING (table_schema, table_name) WHERE table_schema = 'public' AND table_type = 'BASE TABLE'"
        " AND ((table_name = %(parent)s AND column_name = %(key)s) OR column_name = %(child_key)s)"
        " ORDER BY table_name = %(parent)s DESC",
        {"parent": parent, "key": key, "child_key": child_key},
    )
    for table, column, kind in found.fetchall():
        _copy_rows(connection, table, column, kind)


def _copy_rows(connection: psycopg.Connection[Any], table: str, key: str, kind: str) -> None:
    columns = connection.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' AND table_name = %s"
        " AND column_name <> %s AND is_identity = 'NO' AND is_generated = 'NEVER'"
        " AND coalesce(column_default, '') NOT LIKE 'nextval%%'",
        (table, key),
    )
    others = [sql.Identifier(name) for (name,) in columns.fetchall()]
    connection.execute(
        sql.SQL(
            "INSERT INTO {table} ({columns}) SELECT {values} FROM copies"
            " JOIN {table} AS original ON original.{key} = copies.old::{kind} ORDER BY copies.ctid"
        ).format(
            table=sql.Identifier(table),
            key=sql.Identifier(key),
            kind=sql.Identifier(kind),
            columns=sql.SQL(", ").join([sql.Identifier(key), *others]),
            values=sql.SQL(", ").join(
                [
                    sql.SQL("copies.new::{}").format(sql.Identifier(kind)),
                    *(sql.SQL("original.{}").format(o) for o in others),
                ]
            ),
        )
    )


def _tidy(server: Server) -> None:
    """Let Postgres know its tables now, not in the middle of a measurement."""
    with psycopg.connect(server.database_url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


def _http(port: int, headers: Any = None) -> httpx2.Client:
    return httpx2.Client(base_url=f"http://{HOST}:{port}", headers=headers, timeout=_SECONDS, trust_env=False)


def _post(http: httpx2.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = http.post(f"/api/2.0/mlflow/{path}", json=body).raise_for_status().json()
    return answer
