"""What a process loads: the API and the Celery process stay without torch."""

import subprocess
import sys

import pytest

LIST_LOADED = "import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"


def loaded_by(statement: str) -> set[str]:
    """Return the top-level packages in a fresh interpreter after a statement."""
    answer = subprocess.run(
        [sys.executable, "-c", f"{statement}; {LIST_LOADED}"], capture_output=True, text=True, check=True
    )
    return set(answer.stdout.split())


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import api.app", {"torch", "torchvision", "numpy", "worker", "local"}),
        ("import worker.start, worker.scheduler", {"torch", "torchvision", "numpy", "api", "fastapi", "local"}),
        ("import models.spec, models.network", {"torch", "celery", "fastapi", "sqlalchemy", "api", "worker"}),
        ("import models.job, models.database, models.result", {"torch", "celery", "fastapi", "api", "worker"}),
        ("import worker.runner", {"sqlalchemy", "psycopg", "celery", "redis", "fastapi", "api"}),
    ],
)
def test_a_process_does_not_load_what_it_must_not_need(statement: str, absent: set[str]) -> None:
    loaded = loaded_by(statement)
    assert statement.split()[1].partition(".")[0] in loaded
    assert loaded & absent == set()
