"""Data removed, cut short or changed while jobs use them: a job's own file, and the cache of decoded images."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.figures import Figures, figures_of
from harness.invariants import require_invariants
from harness.short_job import BATCHES_BEFORE, SHORT_JOB
from models.faults import FaultPoint
from models.job import Status

pytestmark = pytest.mark.usefixtures("whole")


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data sets that no other test uses."""
    return tmp_path_factory.mktemp("damaged")


@pytest.fixture(scope="module")
def stack(start_service: Any, datasets: Path) -> Any:
    """A stack whose jobs read images batch by batch, from the cache."""
    return start_service(slots=2, fault_points=True, poll_seconds=0.5, datasets_dir=datasets, data_limit_bytes=0)


def attempts(stack: Any, job_id: str) -> list[str]:
    rows = stack.rows("SELECT outcome FROM attempts WHERE job_id = %s ORDER BY number", job_id)
    return [row["outcome"] for row in rows]


def kill_runners(stack: Any) -> None:
    for runner in stack.runners():
        runner.kill()


class Table:
    """A table of a test's own, and a job on it."""

    def __init__(self, stack: Any, datasets: Path, name: str) -> None:
        self.file = datasets / "tables" / f"{name}.csv"
        self.file.parent.mkdir(exist_ok=True)
        rows = [f"{x},{x * x % 17}" for x in range(400)]
        self.file.write_text("\n".join(["x,y", *rows]) + "\n")
        self.spec = {
            "dataset": {"name": "table", "file": self.file.name, "target": "y", "features": ["x"], "validation": 0.2},
            "network": {"name": "mlp", "hidden": [8], "activation": "tanh"},
            "training": {"epochs": 300, "seed": 3, "batch_size": 8},
        }
        self._stack = stack

    def half_way(self) -> str:
        job_id: str = self._stack.submit(self.spec)
        self._stack.wait_for_epoch(job_id, 5)
        assert self._stack.job(job_id)["status"] == Status.RUNNING
        return job_id


def test_a_data_file_that_is_removed_meanwhile_costs_a_job_that_has_read_it_nothing(stack: Any, datasets: Path) -> None:
    table = Table(stack, datasets, "removed")
    undisturbed = stack.submit(table.spec)
    assert stack.wait_for_end(undisturbed)["status"] == "succeeded"
    job_id = table.half_way()
    table.file.unlink()
    assert stack.wait_for_end(job_id)["status"] == "succeeded"
    require_invariants(stack, [job_id], undisturbed=figures_of(stack, undisturbed))


def test_an_attempt_does_not_go_on_over_other_data_than_it_began_with(stack: Any, datasets: Path) -> None:
    table = Table(stack, datasets, "changed")
    job_id = table.half_way()
    table.file.write_text(table.file.read_text().replace("399,", "398.5,"))
    kill_runners(stack)
    job = stack.wait_for_end(job_id)
    assert (job["status"], job["reason"]) == ("failed", "invalid_data")
    assert "has changed since epoch" in job["message"]
    assert attempts(stack, job_id) == ["runner_died", "invalid_data"]
    require_invariants(stack, [job_id])


def test_the_next_attempt_says_that_the_data_file_is_gone(stack: Any, datasets: Path) -> None:
    table = Table(stack, datasets, "gone")
    job_id = table.half_way()
    table.file.unlink()
    kill_runners(stack)
    job = stack.wait_for_end(job_id)
    assert (job["status"], job["reason"]) == ("failed", "invalid_data")
    assert "gone.csv" in job["message"]
    require_invariants(stack, [job_id])


@contextmanager
def images_being_read(stack: Any, datasets: Path) -> Iterator[tuple[str, Path]]:
    """Yield a job that is held in an epoch, and the cached file that it reads its batches from."""
    with stack.faults.holding(FaultPoint.EPOCH, passes=BATCHES_BEFORE) as reached:
        job_id = stack.submit(SHORT_JOB)
        reached()
        (images,) = datasets.glob(".cache/digits-*/train_images.npy")
        yield job_id, images


def cut_short(images: Path) -> None:
    os.truncate(images, images.stat().st_size // 2)


def change(images: Path) -> None:
    with images.open("r+b") as file:
        file.seek(-1_000, os.SEEK_END)
        file.write(bytes(1_000))


@pytest.mark.parametrize("harm", [cut_short, change])
def test_a_job_whose_cached_images_are_damaged_goes_on_once_they_are_decoded_again(
    stack: Any, datasets: Path, undisturbed: Figures, harm: Callable[[Path], None]
) -> None:
    with images_being_read(stack, datasets) as (job_id, images):
        beside_it = Table(stack, datasets, "beside").half_way()
        harm(images)
    assert stack.wait_for_end(job_id)["status"] == "succeeded"
    assert attempts(stack, job_id) == ["data_cache_damaged", "succeeded"]
    (move,) = stack.rows("SELECT message FROM transitions WHERE job_id = %s AND reason = 'data_cache_damaged'", job_id)
    assert f"{images} was changed while it was read." in move["message"]
    later = stack.submit(SHORT_JOB)
    for other in (beside_it, later):
        assert stack.wait_for_end(other)["status"] == "succeeded"
        assert attempts(stack, other) == ["succeeded"]
    require_invariants(stack, [job_id, later], undisturbed=undisturbed)
    require_invariants(stack, [beside_it])


def test_a_job_whose_cached_images_are_removed_reads_on_and_the_next_one_decodes_them(
    stack: Any, datasets: Path, undisturbed: Figures
) -> None:
    with images_being_read(stack, datasets) as (job_id, images):
        shutil.rmtree(images.parent)
        later = stack.submit(SHORT_JOB)
        assert stack.wait_for_end(later)["status"] == "succeeded"
        assert images.exists()
    assert stack.wait_for_end(job_id)["status"] == "succeeded"
    assert attempts(stack, job_id) == attempts(stack, later) == ["succeeded"]
    require_invariants(stack, [job_id, later], undisturbed=undisturbed)
