"""What a worker tells Prometheus, at `/metrics` of a port of its own where `metrics_port` is set."""

import shutil
from collections.abc import Callable
from pathlib import Path

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)

from worker.settings import WorkerSettings

log = structlog.get_logger(__name__)

disable_created_metrics()  # type: ignore[no-untyped-call] # twice as many lines, for a format that nobody asks for

# One process is one worker: what it counts has the life of the process, and no owner but this module.
_REGISTRY = CollectorRegistry()
ProcessCollector(registry=_REGISTRY)

CLAIM_SECONDS = Histogram(
    "trainyard_worker_claim_seconds",
    "Seconds that the claim of a job took, its commit included.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    registry=_REGISTRY,
)
EPOCH_SECONDS = Histogram(
    "trainyard_worker_epoch_seconds",
    "Seconds of an epoch, validation included.",
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3_600, 14_400),
    registry=_REGISTRY,
)
ATTEMPTS_RUNNING = Gauge("trainyard_worker_attempts_running", "Jobs that run here now.", registry=_REGISTRY)
LEASE_RENEWALS = Counter("trainyard_worker_lease_renewals", "Leases that were renewed.", registry=_REGISTRY)
LEASE_LOSSES = Counter(
    "trainyard_worker_lease_losses",
    "Attempts that were taken from this worker, or over without it.",
    registry=_REGISTRY,
)
_SLOTS = Gauge("trainyard_worker_slots", "Jobs that may run here at once.", registry=_REGISTRY)
_AWAY = Gauge(
    "trainyard_worker_database_away_seconds",
    "For how long the heartbeats have not reached the database; 0 where the last one did.",
    registry=_REGISTRY,
)
_DISK = Gauge("trainyard_worker_disk_bytes", "Size of the disk that the folder is on.", ["folder"], registry=_REGISTRY)
_DISK_FREE = Gauge(
    "trainyard_worker_disk_free_bytes", "What is free of it for this process.", ["folder"], registry=_REGISTRY
)


def serve(settings: WorkerSettings, away_seconds: Callable[[], float]) -> None:
    """Answer Prometheus from a thread of its own, if a port is set; end the process where it cannot be had.

    `away_seconds` says for how long the database has been away.
    """
    if settings.metrics_port is None:
        return
    _SLOTS.set(settings.slots)
    _AWAY.set_function(away_seconds)
    for name, folder in {"artifacts": settings.artifacts_dir, "datasets": settings.datasets_dir}.items():
        _watch_disk(name, folder)
    try:
        server, _ = start_http_server(settings.metrics_port, settings.metrics_host, _REGISTRY)
    except OSError as error:
        problem = error.strerror or error
        raise SystemExit(
            f"settings: TRAINYARD_METRICS_PORT: {settings.metrics_port} cannot be had: {problem}"
        ) from None
    log.info("metrics_served", host=settings.metrics_host, port=server.server_port)


def _watch_disk(name: str, folder: Path) -> None:
    folder = folder.resolve()

    def place() -> Path:
        """Return the folder, or, before the first job has made it, the one that it will be in."""
        return next(path for path in (folder, *folder.parents) if path.exists())

    _DISK.labels(name).set_function(lambda: shutil.disk_usage(place()).total)
    _DISK_FREE.labels(name).set_function(lambda: shutil.disk_usage(place()).free)
