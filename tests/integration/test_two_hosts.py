"""Two workers as two hosts: one is drained under load, the other is killed, and every job ends once, as undisturbed.

They have names, data sets and temporary files of their own and share nothing but the directory of artifacts, the
database and the broker. Where this user may make namespaces, neither sees the other's processes or network.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from local.children import Child

LEASE_SECONDS = 4
EPOCHS = 150
SEEDS = (1, 2, 3)
FIGURES = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")


def spec(seed: int) -> dict[str, Any]:
    return {
        "dataset": {"name": "digits"},
        "network": {"name": "mlp", "hidden": [64], "dropout": 0.2},
        "training": {"epochs": EPOCHS, "seed": seed, "optimizer": {"name": "sgd", "learning_rate": 0.01}},
        "resources": {"device": "cpu"},
    }


@cache
def _apart() -> list[str]:
    """Return the command that starts another in namespaces of its own, or nothing where that is not allowed."""
    unshare = shutil.which("unshare")
    if unshare is None or os.geteuid() != 0:
        return []
    command = [unshare, "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return command if subprocess.run([*command, "true"], check=False, capture_output=True).returncode == 0 else []


class Host:
    """One host, which runs one worker with two slots."""

    def __init__(self, service: Any, name: str, place: Path) -> None:
        self.name = name
        self.datasets = place / "datasets"
        self._service = service
        self._log = place / "worker.log"
        self._temporary = place / "tmp"
        self._temporary.mkdir(parents=True)
        self._child: Child | None = None

    def start(self) -> None:
        own = {
            "TRAINYARD_WORKER_NAME": self.name,
            "TRAINYARD_DATASETS_DIR": str(self.datasets),
            "TRAINYARD_SLOTS": "2",
            "TMPDIR": str(self._temporary),
        }
        command = self._service.stack._python(self.name, "worker", grace_seconds=0.1)
        self._child = Child(
            replace(command, arguments=[*_apart(), *command.arguments], environment=command.environment | own),
            self._log,
        )

    def kill(self) -> None:
        """Take its power away."""
        if self._child is not None:
            self._child.send(signal.SIGKILL)
            self._child.stop()

    def view(self) -> dict[str, Any]:
        """Return what the API shows of its worker; nothing before it was ever there."""
        found = self._service.http.get("/workers").json()["items"]
        ids = [worker["id"] for worker in found if worker["name"] == self.name]
        view: dict[str, Any] = self._service.http.get(f"/workers/{ids[0]}").json() if ids else {}
        return view

    def wait_for(self, reached: Callable[[dict[str, Any]], bool], seconds: float = 180) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while not (view := self.view()) or not reached(view):
            assert time.monotonic() < deadline, (view, self._log.read_text()[-2_000:])
            time.sleep(0.05)
        return view

    def ask(self, action: str) -> dict[str, Any]:
        answer = self._service.http.post(f"/workers/{self.view()['id']}/{action}")
        assert answer.is_success, answer.text
        view: dict[str, Any] = answer.json()
        return view


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    """A service whose workers are all on other hosts."""
    return start_service(workers=0, lease_seconds=LEASE_SECONDS, beat_seconds=0.4, poll_seconds=0.4, sweep_seconds=0.4)


@pytest.fixture(scope="module")
def hosts(service: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Host]]:
    """Two hosts that are ready for jobs."""
    moon, mars = (Host(service, name, tmp_path_factory.mktemp(name)) for name in ("moon", "mars"))
    try:
        for host in (moon, mars):
            host.start()
        for host in (moon, mars):
            host.wait_for(lambda view: view["state"] == "online")
        yield moon, mars
    finally:
        moon.kill()
        mars.kill()


@pytest.fixture(scope="module")
def undisturbed(service: Any, hosts: tuple[Host, Host]) -> dict[int, list[dict[str, Any]]]:
    """The epochs of a job of each seed that nobody disturbs."""
    ids = {seed: service.submit(spec(seed)) for seed in SEEDS}
    assert {service.wait_for_end(job_id, seconds=180)["status"] for job_id in ids.values()} == {"succeeded"}
    return {seed: service.epochs(job_id) for seed, job_id in ids.items()}


@pytest.fixture(scope="module")
def story(service: Any, hosts: tuple[Host, Host], undisturbed: Any) -> dict[str, Any]:
    """Twelve jobs while one host is drained and the other killed; what was seen meanwhile."""
    moon, mars = hosts
    jobs = {service.submit(spec(seed)): seed for seed in SEEDS * 4}
    for host in hosts:
        host.wait_for(lambda view: len(view["jobs"]) == 2 and all(job["epoch"] >= 5 for job in view["jobs"]))
    drained = moon.ask("drain")
    struck = mars.view()
    mars.kill()
    empty = moon.wait_for(lambda view: view["running"] == 0)
    lost = [job["id"] for job in struck["jobs"]]
    for job_id in lost:
        service.wait_for(job_id, lambda job: job["status"] != "running")
    moon.ask("resume")
    moon.wait_for(lambda view: view["running"] == 2)
    moon.ask("drain")  # or it might have done everything before the other one is back
    mars.start()
    mars.wait_for(lambda view: view["running"] > 0)
    moon.ask("resume")
    ends = {job_id: service.wait_for_end(job_id, seconds=300) for job_id in jobs}
    return {"jobs": jobs, "drained": drained, "empty": empty, "struck": struck, "ends": ends, "lost": lost}


def attempts_of(service: Any, job_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.rows("SELECT * FROM attempts WHERE job_id = %s ORDER BY number", job_id)
    return found


def test_every_job_ends_once_with_the_numbers_of_one_that_nobody_disturbed(
    service: Any, story: dict[str, Any], undisturbed: dict[int, list[dict[str, Any]]]
) -> None:
    ended = "SELECT count(*) AS n FROM transitions WHERE job_id = %s AND to_status = 'succeeded'"
    for job_id, seed in story["jobs"].items():
        assert story["ends"][job_id]["status"] == "succeeded", story["ends"][job_id]["message"]
        assert service.rows(ended, job_id) == [{"n": 1}]
        assert service.rows("SELECT count(*) AS n FROM results WHERE job_id = %s", job_id) == [{"n": 1}]
        assert [attempt["outcome"] for attempt in attempts_of(service, job_id)].count("succeeded") == 1
        epochs = service.epochs(job_id)
        assert [epoch["epoch"] for epoch in epochs] == list(range(1, EPOCHS + 1))
        for figure in FIGURES:
            assert [epoch[figure] for epoch in epochs] == [epoch[figure] for epoch in undisturbed[seed]], figure


def test_attempts_at_a_job_never_overlap(service: Any, story: dict[str, Any]) -> None:
    for job_id in story["jobs"]:
        for earlier, later in pairwise(attempts_of(service, job_id)):
            assert earlier["ended_at"] <= later["started_at"]


def test_the_drained_host_finished_what_it_ran_and_took_nothing(service: Any, story: dict[str, Any]) -> None:
    assert story["drained"]["state"] == story["empty"]["state"] == "draining"
    for job in story["drained"]["jobs"]:
        (attempt,) = attempts_of(service, job["id"])
        assert (attempt["worker"], attempt["outcome"]) == ("moon", "succeeded")
    since, until = story["drained"]["draining_since"], story["empty"]["heartbeat_at"]
    taken = "SELECT count(*) AS n FROM attempts WHERE worker = 'moon' AND started_at BETWEEN %s AND %s"
    assert service.rows(taken, since, until) == [{"n": 0}]


def test_the_killed_hosts_jobs_went_on_elsewhere_from_their_checkpoints(service: Any, story: dict[str, Any]) -> None:
    first_of_next = "SELECT min(epoch) AS epoch FROM epochs WHERE job_id = %s AND attempt = 2"
    for job in story["struck"]["jobs"]:
        first, second = attempts_of(service, job["id"])
        assert (first["worker"], first["outcome"]) == ("mars", "worker_lost")
        assert (second["worker"], second["outcome"]) == ("moon", "succeeded")
        (row,) = service.rows(first_of_next, job["id"])
        assert row["epoch"] > job["epoch"], "with what the other host had left in the shared directory"


def test_the_killed_host_came_back_to_its_row_and_worked(
    service: Any, hosts: tuple[Host, Host], story: dict[str, Any]
) -> None:
    _, mars = hosts
    view = mars.wait_for(lambda view: view["state"] == "online")
    assert view["id"] == story["struck"]["id"]
    assert view["started_at"] > story["struck"]["started_at"]
    again = "SELECT count(*) AS n FROM attempts WHERE worker = 'mars' AND started_at > %s"
    (row,) = service.rows(again, view["started_at"])
    assert row["n"] > 0


def test_each_host_prepared_its_own_data(hosts: tuple[Host, Host], story: dict[str, Any]) -> None:
    for host in hosts:
        assert any(host.datasets.rglob("*")), host.name
