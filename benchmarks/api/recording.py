"""Epochs on their way into the database: as our worker records them, and as a bare loop inserts them."""

import json
import math
import time
from typing import Any

import psycopg
from sqlalchemy.engine import make_url

from benchmarks.api.setting import EPOCHS, METRICS
from models.database import sync_engine, sync_sessions
from models.line import Offer
from models.result import EpochMetrics
from models.settings import Settings
from worker.attempt import AttemptRecord
from worker.messages import SavedCheckpoint
from worker.queue import Claim, claim_next

APPLICATION = "benchmark"  # what Postgres calls our connections
_LEASE_SECONDS = 86_400.0  # nobody renews it
_HIGH, _LOW = 0.97, 0.55  # validation accuracy that is reached


class Recorder:
    """An attempt at the oldest queued job, in the worker's own words."""

    def __init__(self, sqlalchemy_url: str) -> None:
        """Claim the job."""
        address = make_url(sqlalchemy_url).update_query_dict({"application_name": APPLICATION})
        settings = Settings(DATABASE_URL=address.render_as_string(hide_password=False), environment="development")
        self._sessions = sync_sessions(sync_engine(settings, pool_size=1))
        self.claim = self._claim()
        self._record = AttemptRecord(self._sessions, self.claim)

    def add(self, epoch: int, *, good: bool = True) -> None:
        """Record an epoch; a good network ends with a high accuracy."""
        values = figures(epoch, good=good)
        metrics = EpochMetrics(epoch=epoch, penalty=0.0, train_seconds=values["seconds"] * 0.8, **values)
        checkpoint = SavedCheckpoint(attempt=1, epoch=epoch, file=f"epoch-{epoch}.ckpt", sha256=f"{epoch:064x}")
        self._record.add_epoch(metrics, checkpoint)

    def end(self) -> None:
        """End the job, whose epochs stay."""
        self._record.fail("time_limit", "The time limit is reached.", retry_limit=0)

    def _claim(self) -> Claim:
        with self._sessions.begin() as session:
            claim = claim_next(
                session,
                worker="benchmark",
                offer=Offer(["default"], free_slots=1),
                allocate=lambda *_: (),
                lease_seconds=_LEASE_SECONDS,
            )
        assert claim is not None, "a job was submitted"
        return claim


def record_as_the_worker(sqlalchemy_url: str) -> float:
    """Record all epochs of the queued job one by one; return the seconds of all together."""
    recorder = Recorder(sqlalchemy_url)
    started = time.perf_counter()
    for epoch in range(1, EPOCHS + 1):
        recorder.add(epoch)
    return time.perf_counter() - started


def record_barely(libpq_url: str) -> float:
    """Insert all epochs as lines of a row one by one, each in a transaction; return the seconds of all together."""
    with psycopg.connect(libpq_url, autocommit=True) as connection:
        started = time.perf_counter()
        for epoch in range(1, EPOCHS + 1):
            line = json.dumps({"epoch": epoch, **figures(epoch)})
            connection.execute("INSERT INTO lines VALUES (%s, %s, %s)", (1, epoch, line))
        return time.perf_counter() - started


def figures(epoch: int, *, good: bool = True) -> dict[str, Any]:
    """Return the six metrics of an epoch, with as many digits as real ones have."""
    left = math.exp(-epoch / 60)
    reached = _HIGH if good else _LOW
    noise = math.sin(epoch) / 300
    values = (
        2.3 * left + 0.01,
        1 - left,
        2.2 * left + 0.2 + noise,
        reached * (1 - left) + noise,
        0.05 * left,
        5 + noise,
    )
    return dict(zip(METRICS, values, strict=True))
