"""How a worker process starts: settings, then the environment without secrets, then Celery."""

import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryFile

import structlog

from models.database import sync_engine, sync_sessions
from models.logs import configure_logs, name_process
from models.settings import read_settings
from worker import broker, metrics
from worker.allocation import slots_within
from worker.app import worker_app
from worker.gpus import usable_gpus
from worker.host import this_host
from worker.processor import usable_cores
from worker.registration import Registration
from worker.retention import ARTIFACTS_MARK
from worker.settings import WorkerSettings

log = structlog.get_logger(__name__)

_SECRETS = ("DATABASE_URL", "REDIS_URL")
_SPARE_CONNECTIONS = 2


def main() -> None:
    """Run a worker until it is told to stop."""
    configure_logs()
    settings = read_settings(WorkerSettings)
    name_process(worker=settings.worker_name)
    if not settings.git_commit:
        settings = settings.model_copy(update={"git_commit": _git_commit()})
    settings = _with_slots_within_cores(settings)
    _require_artifacts(settings.artifacts_dir)
    prepare_environment_of_runners()
    engine = sync_engine(settings, pool_size=settings.slots + _SPARE_CONNECTIONS)
    broker.install()
    host = this_host(usable_gpus(), settings.git_commit)
    registration = Registration(sync_sessions(engine), settings, host)
    metrics.serve(settings, lambda: registration.database_away_seconds)
    registration.start()
    app = worker_app(settings, engine, registration, host)
    app.Worker(
        hostname=f"trainyard@{settings.worker_name}",
        pool="threads",
        concurrency=1,  # a wake-up takes microseconds
        queues=settings.queues,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        loglevel="INFO",
        quiet=True,  # no banner among the events
        optimization="fair",
    ).start()


def prepare_environment_of_runners() -> None:
    """Set what forkserver and runners inherit: no secrets, and threads that spin a little before they sleep."""
    environment = os.environ  # noqa: TID251 - inherited, not read
    for secret in _SECRETS:
        environment.pop(secret, None)  # a runner has no business in the database
    # Threads that spin while they wait for each other made an epoch ten times as long on cores shared with others.
    environment.setdefault("OMP_WAIT_POLICY", "passive")
    # Some 10 microseconds of it bridge most gaps within a step: 0.95 to 0.98 of the speed of threads that spin for ever
    # on cores of their own, where threads that sleep at once made 0.77 to 0.82; on crowded cores 0.88 to 1.05 of these.
    environment.setdefault("GOMP_SPINCOUNT", "1000")


def _require_artifacts(directory: Path) -> None:
    """End the process where checkpoints could not be written: it would take the lab's jobs and fail them all."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / ARTIFACTS_MARK).touch()
        with TemporaryFile(dir=directory):
            return
    except OSError as error:
        raise SystemExit(
            f"the artifacts directory {directory} cannot be written ({error.strerror}): "
            "mount it, or name another with TRAINYARD_ARTIFACTS_DIR"
        ) from None


def _with_slots_within_cores(settings: WorkerSettings) -> WorkerSettings:
    slots = slots_within(usable_cores(), settings.slots)
    if slots < settings.slots:
        log.warning("more_slots_than_cores", slots=settings.slots, used=slots)
    return settings.model_copy(update={"slots": slots})


def _git_commit() -> str | None:
    """Return the commit of the source that runs here, or None where it is no checkout."""
    git = shutil.which("git")
    if git is None:
        return None
    answer = subprocess.run(
        [git, "rev-parse", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip() or None
