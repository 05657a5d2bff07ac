"""The memory that data may take: a container's limit counts as much as the host's memory does."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.demand import CUDA_CONTEXT_BYTES, GIB
from models.pace import GpuUse
from worker import control_groups
from worker.training import memory


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    """Control groups as the kernel shows them: a limited one, and one inside it without a limit of its own."""
    inner = tmp_path / "groups" / "lab" / "job"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    (inner / "memory.current").write_text("300\n")
    (inner.parent / "memory.max").write_text("1000\n")
    (inner.parent / "memory.current").write_text("700\n")
    (inner.parent / "memory.stat").write_text("anon 500\ninactive_file 150\nactive_file 50\n")
    return tmp_path / "groups"


def _process(folder: Path, line: str) -> Path:
    file = folder / "cgroup"
    file.write_text(line)
    return file


def test_the_limit_of_an_outer_control_group_counts_and_cached_files_are_free(groups: Path, tmp_path: Path) -> None:
    process = _process(tmp_path, "0::/lab/job\n")
    assert control_groups.free_in_control_groups(groups, process) == [1000 - 700 + 150]
    assert control_groups.memory_limits(groups, process) == [1000]


def test_a_process_outside_of_limited_control_groups_has_no_limit(groups: Path, tmp_path: Path) -> None:
    assert control_groups.free_in_control_groups(groups, _process(tmp_path, "0::/\n")) == []
    assert control_groups.free_in_control_groups(groups / "absent", tmp_path / "absent") == []


def test_in_a_container_the_group_at_the_root_is_its_own(groups: Path, tmp_path: Path) -> None:
    for name, text in {"memory.max": "64", "memory.current": "100", "memory.stat": "inactive_file 0"}.items():
        (groups / name).write_text(text)
    assert control_groups.free_in_control_groups(groups, _process(tmp_path, "0::/\n")) == [0]


def test_what_data_may_take_on_the_host_is_within_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_in_control_groups", lambda: [1_000_000])
    assert memory.free_bytes(torch.device("cpu")) == 1_000_000
    assert memory.data_limit(torch.device("cpu"), slots=2) == 250_000


def test_of_a_gpu_that_it_shares_data_may_take_a_part_of_what_the_job_asked_for() -> None:
    asked = 4 * GIB + CUDA_CONTEXT_BYTES
    assert memory.gpu_data_limit(torch.device("cuda"), asked, measured=False) == 2 * GIB
    assert memory.gpu_data_limit(torch.device("cuda"), CUDA_CONTEXT_BYTES // 2, measured=False) == 0


@given(peak=st.integers(0, 100 * GIB))
def test_data_that_a_gpu_held_in_a_like_job_are_held_again_by_what_was_measured(peak: int) -> None:
    granted = GpuUse(peak_bytes=peak, all_bytes=200 * GIB).to_ask_for()
    assert memory.gpu_data_limit(torch.device("cuda"), granted, measured=True) >= peak
