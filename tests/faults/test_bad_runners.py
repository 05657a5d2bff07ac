"""Runners that hang, leave, shout or hoard: the job ends as it should, and the worker goes on with the next one."""

import re
import time
from contextlib import suppress
from typing import Any

import psutil
import pytest

from harness.invariants import require_invariants
from models.demand import GIB
from worker.attempt import LOG_LIMIT

MLP: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "network": {"name": "mlp", "hidden": [16]},
    "training": {"epochs": 3, "seed": 4},
}
RETRIES = 1
CAP_GB = 2.0  # of the worker
LIMIT_GB = 0.75
WARM_SECONDS = 180  # in which the first runner of a worker has imported torch on a busy machine


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    """A stack whose one worker has runners that do what the name of their job says."""
    service = start_service(
        worker_module="harness.odd_worker", poll_seconds=0.5, retry_limit=RETRIES, runner_memory_gb=CAP_GB
    )
    service.wait_for_end(service.submit(MLP), WARM_SECONDS)
    return service


def odd(name: str, **fields: Any) -> dict[str, Any]:
    return MLP | {"name": name} | fields


def attempts(service: Any, job_id: str) -> list[str]:
    rows = service.rows("SELECT outcome FROM attempts WHERE job_id = %s ORDER BY number", job_id)
    return [row["outcome"] for row in rows]


def log_of(service: Any, job_id: str) -> str:
    pieces = service.rows("SELECT text FROM log_chunks WHERE job_id = %s ORDER BY id", job_id)
    return "".join(piece["text"] for piece in pieces)


def require_free_and_well(service: Any, job_id: str) -> None:
    """Hold the invariants, and train a job on the same worker."""
    deadline = time.monotonic() + 10
    while living := [one for one in service.runners() if one.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < deadline, f"runners are left: {living}"
        time.sleep(0.05)
    next_one = service.submit(MLP)
    assert service.wait_for_end(next_one)["status"] == "succeeded"
    require_invariants(service, [job_id, next_one])


def wait_until_it_hangs(service: Any) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(psutil.NoSuchProcess):
            if any(runner.status() == psutil.STATUS_STOPPED for runner in service.runners()):
                return
        time.sleep(0.05)
    raise AssertionError("no runner hangs")


def test_a_runner_that_hangs_is_cancelled(service: Any) -> None:
    job_id = service.submit(odd("hang"))
    wait_until_it_hangs(service)
    assert service.http.post(f"/jobs/{job_id}/cancel").json()["status"] == "cancelling"
    assert service.wait_for_end(job_id)["status"] == "cancelled"
    assert service.rows("SELECT count(*) AS n FROM epochs WHERE job_id = %s", job_id) == [{"n": 0}]
    require_free_and_well(service, job_id)


def test_a_runner_that_hangs_ends_with_its_time_limit(service: Any) -> None:
    job_id = service.submit(odd("hang", resources={"time_limit_seconds": 2}))
    job = service.wait_for_end(job_id)
    assert (job["status"], job["reason"], attempts(service, job_id)) == ("failed", "time_limit", ["time_limit"])
    require_free_and_well(service, job_id)


def test_a_runner_that_exits_well_without_a_result_is_a_death_and_tried_again_up_to_the_limit(service: Any) -> None:
    job_id = service.submit(odd("exit_well"))
    job = service.wait_for_end(job_id)
    assert (job["status"], job["reason"]) == ("failed", "runner_died")
    assert "exit code 0 and no result" in job["message"]
    assert len(attempts(service, job_id)) == 1 + RETRIES
    require_free_and_well(service, job_id)


def test_a_runner_that_reads_beyond_the_end_of_a_file_says_so_and_is_tried_again(service: Any) -> None:
    job_id = service.submit(odd("read_cut_short"))
    job = service.wait_for_end(job_id)
    assert (job["status"], job["reason"]) == ("failed", "runner_died")
    assert "signal 7: a file that it had mapped was cut short" in job["message"]
    assert len(attempts(service, job_id)) == 1 + RETRIES
    require_free_and_well(service, job_id)


def test_a_runner_that_prints_a_gibibyte_costs_the_worker_no_memory_and_the_job_nothing(service: Any) -> None:
    worker = psutil.Process(service.stack.pid("worker-1"))
    before = worker.memory_info().rss
    job_id = service.submit(odd("print_much"))
    most = before
    while service.job(job_id)["status"] not in ("succeeded", "failed"):
        most = max(most, worker.memory_info().rss)
        time.sleep(0.1)
    assert service.job(job_id)["status"] == "succeeded", service.job(job_id)
    assert most - before < 100 * 2**20
    log = log_of(service, job_id)
    assert "bytes of output dropped" in log
    assert log.rstrip().endswith("printed all of it")
    (kept,) = service.rows("SELECT sum(length(text)) AS size FROM log_chunks WHERE job_id = %s", job_id)
    assert kept["size"] <= LOG_LIMIT
    require_free_and_well(service, job_id)


def test_a_child_that_a_runner_leaves_behind_goes_with_it_and_holds_nothing_up(service: Any) -> None:
    job_id = service.submit(odd("leave_child"))
    assert service.wait_for_end(job_id)["status"] == "succeeded"
    told = re.search(r"child (\d+)", log_of(service, job_id))
    assert told is not None
    with suppress(psutil.NoSuchProcess):
        assert psutil.Process(int(told[1])).status() == psutil.STATUS_ZOMBIE
    require_free_and_well(service, job_id)


@pytest.mark.parametrize("name", ["hoard", "hoard_in_child"])
def test_a_job_beyond_its_memory_limit_fails_with_limit_and_use_and_is_not_tried_again(service: Any, name: str) -> None:
    job_id = service.submit(odd(name, resources={"memory_gb": LIMIT_GB}))
    job = service.wait_for_end(job_id)
    assert (job["status"], job["reason"], attempts(service, job_id)) == ("failed", "out_of_memory", ["out_of_memory"])
    said = re.fullmatch(r"The job used ([\d.]+) GiB of memory; its limit is 0.75 GiB, by (.*)\.", job["message"])
    assert said is not None, job["message"]
    assert LIMIT_GB < float(said[1]) < CAP_GB
    assert said[2] == "resources.memory_gb"
    require_free_and_well(service, job_id)


def test_what_a_worker_allows_holds_where_a_job_asks_for_more(service: Any) -> None:
    job_id = service.submit(odd("hoard", resources={"memory_gb": 1_000}))
    job = service.wait_for_end(job_id)
    assert (job["status"], job["reason"]) == ("failed", "out_of_memory")
    assert "its limit is 2 GiB, by the worker's TRAINYARD_RUNNER_MEMORY_GB." in job["message"]
    require_free_and_well(service, job_id)


def test_a_mapped_file_is_no_memory_of_the_job(service: Any) -> None:
    assert LIMIT_GB * GIB < GIB, "the file alone would be beyond the limit"
    job_id = service.submit(odd("read_mapped", resources={"memory_gb": LIMIT_GB}))
    job = service.wait_for_end(job_id)
    assert job["status"] == "succeeded", job["message"]
    require_free_and_well(service, job_id)


def test_a_loss_that_is_not_finite_ends_the_job_and_keeps_the_epochs_before_it(service: Any) -> None:
    # The rate rises to what no weights survive: the first epochs are finite.
    training = {
        "epochs": 30,
        "seed": 1,
        "l2_penalty": 1.0,
        "optimizer": {"learning_rate": 500.0},
        "schedule": {"name": "constant", "warmup_epochs": 29},
        "gradient_clip_norm": None,
    }
    job_id = service.submit(MLP | {"training": training})
    job = service.wait_for_end(job_id)
    assert (job["status"], job["reason"], attempts(service, job_id)) == (
        "failed",
        "non_finite_loss",
        ["non_finite_loss"],
    )
    assert f"epoch {job['progress']['epoch'] + 1}" in job["message"]
    require_free_and_well(service, job_id)
