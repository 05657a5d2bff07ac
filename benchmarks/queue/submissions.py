"""From `POST /jobs` until a worker has the job, through the whole service: its line empty, and long."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import psycopg
from sqlalchemy.engine import make_url

from benchmarks.processes import MeasurementFailed
from benchmarks.queue.lines import fill
from benchmarks.queue.setting import Scale
from local.stack import Stack

IDLE, WAITING = "nothing else waits", "others wait that this worker cannot run"
Submissions = dict[str, list[float]]  # seconds of each

_SPEC: dict[str, Any] = {"dataset": {"name": "digits"}, "network": {"name": "mlp"}, "training": {"epochs": 1}}
_FINAL = {"succeeded", "failed", "cancelled"}
_JOB_SECONDS = 120.0
_POLL_SECONDS = 0.05
_PAUSE_SECONDS = 0.2  # the worker has looked for work after its last job, and waits to be woken
_NO_LIMITS = {"TRAINYARD_RATE_LIMIT_PER_MINUTE": "1000000", "TRAINYARD_RATE_LIMIT_BURST": "1000000"}
# Half of them wait in a queue that nobody serves, half for GPUs, behind what is submitted.
_SPLIT = """
    UPDATE jobs SET priority = -5, queue = CASE WHEN id < (SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY id) FROM
    jobs) THEN 'default' ELSE 'unserved' END, device = 'cuda', gpus = 1, gpu_memory_bytes = NULL
"""


def measure(folder: Path, scale: Scale, say: Callable[[str], None]) -> Submissions:
    """Return the seconds from before a `POST` until its attempt began, with one idle worker, by one clock."""
    stack = Stack(folder / "service", environment=_NO_LIMITS)
    with stack, stack.client(timeout=_JOB_SECONDS) as http:
        database = make_url(stack.database_url).set(drivername="postgresql").render_as_string(hide_password=False)
        _start(http, database)  # its data are decoded, and the worker's connection is open
        found = {IDLE: [_start(http, database) for _ in range(scale.submissions)]}
        say("submissions to an idle service")
        fill(database, scale.waiting)
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(_SPLIT)
        _start(http, database)
        found[WAITING] = [_start(http, database) for _ in range(scale.submissions)]
        say(f"submissions while {scale.waiting:,} wait")
    return found


def _start(http: httpx2.Client, database: str) -> float:
    time.sleep(_PAUSE_SECONDS)
    sent = time.time()  # the database's clock is this machine's
    job = http.post("/jobs", json=_SPEC).raise_for_status().json()["id"]
    _wait_for_end(http, job)
    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT extract(epoch FROM started_at) FROM attempts WHERE job_id = %s", [job])
        (started,) = row.fetchone() or (None,)
    if started is None:
        raise MeasurementFailed("a job ended without an attempt")
    return float(started) - sent


def _wait_for_end(http: httpx2.Client, job: str) -> None:
    deadline = time.monotonic() + _JOB_SECONDS
    while http.get(f"/jobs/{job}").raise_for_status().json()["status"] not in _FINAL:
        if time.monotonic() > deadline:
            raise MeasurementFailed(f"a job took longer than {_JOB_SECONDS:.0f} s")
        time.sleep(_POLL_SECONDS)
