"""An upgrade under load: the schema moves on while workers of the version before claim and train, and none is stuck."""

import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from alembic import command
from alembic.script import ScriptDirectory

from harness.figures import figures_of
from harness.invariants import require_invariants
from migrations import config, head

ROOT = Path(__file__).parents[2]
LONG = 300.0  # seconds: at their end a test has failed
CHILDREN = ("worker-1", "scheduler", "api")
SPEC: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "network": {"name": "mlp", "hidden": [64], "dropout": 0.2},
    "training": {"epochs": 12, "seed": 5, "optimizer": {"name": "sgd", "learning_rate": 0.01, "momentum": 0.9}},
}


def git(*arguments: str | Path) -> bytes:
    run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    if run.returncode != 0:
        pytest.skip(f"the code from before the newest migration is not here: {run.stderr.decode().strip()}")
    return run.stdout


@pytest.fixture(scope="module")
def code_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service's code as it was before the newest migration came, out of the history."""
    newest = ScriptDirectory.from_config(config()).get_revision(head()).path
    added = git("log", "--diff-filter=A", "--format=%H", "-1", "--", newest).decode().strip()
    commit = f"{added}^" if added else "HEAD"  # it is not committed yet
    folder = tmp_path_factory.mktemp("before")
    archive = git("archive", commit, "api", "migrations", "models", "recipes", "worker")
    subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
    return folder


@pytest.fixture
def old_service(start_service: Any, code_before: Path) -> Any:
    """A service of the version before, on a schema of the version before."""
    earlier = {name: {"PYTHONPATH": str(code_before)} for name in ("migrations", "api.access.bootstrap", *CHILDREN)}
    return start_service(slots=2, poll_seconds=0.5, overrides_of=earlier)


def revision(service: Any) -> str:
    (row,) = service.rows("SELECT version_num FROM alembic_version")
    return str(row["version_num"])


def reached(service: Any, job_id: str, more: int) -> Any:
    """Wait until a job has recorded some more epochs, and return it."""
    now = service.job(job_id)["progress"]["epoch"]
    return service.wait_for(job_id, lambda job: job["progress"]["epoch"] >= now + more, LONG)


def upgrade_child(service: Any, name: str) -> None:
    """Stop a child as an upgrade does, and start it with the code of this version."""
    service.stack.kill_child(name, signal.SIGTERM)
    psutil.Process(service.stack.pid(name)).wait(LONG)
    del service.stack._overrides_of[name]
    service.stack.start_child(name)


def test_workers_of_the_version_before_go_on_while_the_schema_moves(old_service: Any) -> None:
    service = old_service
    assert revision(service) != head()
    before = service.submit(SPEC)
    assert service.wait_for_end(before, LONG)["status"] == "succeeded"
    undisturbed = figures_of(service, before)
    running = service.submit(SPEC | {"training": {"epochs": 100_000, "seed": 5}})
    reached(service, running, 3)

    migration = service.start_migrations()
    output, _ = migration.communicate(timeout=LONG)
    assert migration.returncode == 0, output
    assert revision(service) == head()
    answer = service.http.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "not_migrated")
    after = service.submit(SPEC)  # by the API of the version before
    assert service.wait_for_end(after, LONG)["status"] == "succeeded"
    assert figures_of(service, after) == undisturbed
    job = reached(service, running, 3)
    assert (job["status"], job["attempt"]) == ("running", 1), "it did not even notice"

    for name in ("worker-1", "scheduler"):  # before the API: what that takes, every worker must be able to read
        upgrade_child(service, name)
    service.wait_for(running, lambda job: job["attempt"] == 2, LONG)
    (ready,) = service.rows("SELECT clock_timestamp() AS at")  # the new worker is: before, it loaded its libraries
    reached(service, running, 3)
    upgrade_child(service, "api")
    service.stack.wait_until_ready()
    job = service.job(running)
    assert (job["status"], job["attempt"], job["retries"]) == ("running", 2, 0)
    assert [move["reason"] for move in job["transitions"]] == [None, None, "preempted", None]
    service.http.post(f"/jobs/{running}/cancel")
    assert service.wait_for_end(running, LONG)["status"] == "cancelled"
    require_invariants(service, [before, running, after], healed_at=ready["at"])
    assert service.http.delete(f"/jobs/{before}").status_code == 204


def test_a_migration_that_has_to_wait_for_a_table_lets_the_others_pass(
    start_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = start_service(workers=0)
    monkeypatch.setenv("DATABASE_URL", service.stack.database_url)
    command.downgrade(config(), "-1")
    before = revision(service)
    url = service.stack.database_url.replace("+psycopg", "")
    with psycopg.connect(url) as reader:
        reader.execute("SELECT count(*) FROM jobs")  # and its transaction stays open
        migration = service.start_migrations()
        assert migration.stdout is not None
        line = migration.stdout.readline()
        assert "tries again" in line, line + migration.stdout.read()
        # Behind a migration that waits for the table, everybody would wait.
        assert service.rows("SELECT count(*) AS n FROM jobs") == [{"n": 0}]
        assert (revision(service), migration.poll()) == (before, None)
    output, _ = migration.communicate(timeout=LONG)
    assert migration.returncode == 0, output
    assert revision(service) == head()
