"""The running service keeps to its description: schemathesis asks whatever that allows, and much that it does not."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SETTINGS = Path(__file__).with_name("schemathesis.toml")
JOB = {"dataset": {"name": "digits"}, "network": {"name": "mlp", "hidden": [8]}, "training": {"epochs": 2}}


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    """A service that has trained two networks and trains no more."""
    limits = {"rate_limit_per_minute": 1_000_000, "rate_limit_burst": 1_000_000}
    service = start_service(webhook_hosts="hooks.example.org", **limits)
    service.trained = [service.submit(JOB | {"training": {"epochs": 2, "seed": seed}}) for seed in (1, 2)]
    for job in service.trained:
        assert service.wait_for_end(job)["status"] == "succeeded"
    service.stack.kill_child("worker-1")
    return service


def test_what_is_shown_of_finished_jobs_is_as_described(service: Any, application: Any, require_conforms: Any) -> None:
    first, second = service.trained
    paths = application.openapi()["paths"]
    for path, target in {
        "/jobs/{job_id}": f"/jobs/{first}",
        "/jobs/{job_id}/result": f"/jobs/{first}/result",
        "/jobs/{job_id}/metrics": f"/jobs/{first}/metrics",
        "/jobs/{job_id}/logs": f"/jobs/{first}/logs",
        "/jobs/{job_id}/predictions": f"/jobs/{first}/predictions?limit=5",
        "/compare": f"/compare?job={first}&job={second}",
        "/jobs": "/jobs?status=succeeded",
    }.items():
        answer = service.http.get(target)
        assert answer.status_code == 200, answer.text
        require_conforms(answer.json(), paths[path]["get"]["responses"]["200"]["content"]["application/json"]["schema"])


def test_every_answer_is_as_the_description_says(service: Any, tmp_path: Path) -> None:
    command: list[str | Path] = [
        Path(sys.executable).with_name("schemathesis"),
        "--config-file",
        SETTINGS,
        "run",
        "--no-color",
    ]
    target = [f"{service.stack.base_url}/openapi.json", "-H", f"Authorization: Bearer {service.stack.admin_token}"]
    run = subprocess.run([*command, *target], cwd=tmp_path, capture_output=True, text=True, timeout=1_200, check=False)
    assert run.returncode == 0, run.stdout[-20_000:]
    passed = re.search(r"generated, (\d+) passed", run.stdout)
    assert passed is not None, run.stdout
    assert int(passed[1]) > 3_000
    assert "unexpected_error" not in service.log("api")
