"""How a worker process starts: settings, then the environment without secrets, then Celery."""

import os
import shutil
import subprocess
from pathlib import Path

from models.logs import configure_logs
from models.settings import read_settings
from worker.app import worker_app
from worker.settings import WorkerSettings

_SECRETS = ("DATABASE_URL", "REDIS_URL")


def main() -> None:
    """Run a worker until it is told to stop."""
    configure_logs()
    settings = read_settings(WorkerSettings)
    if not settings.git_commit:
        settings = settings.model_copy(update={"git_commit": _git_commit()})
    prepare_environment_of_runners()
    app = worker_app(settings)
    app.Worker(
        hostname=f"trainyard@{settings.worker_name}",
        pool="threads",
        concurrency=1,  # a wake-up takes microseconds
        queues=settings.queues,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        loglevel="INFO",
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
