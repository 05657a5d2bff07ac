"""What a worker says of its host, of its process and of its version."""

import subprocess
import sys
import tomllib
from pathlib import Path

import psutil

from models.version import VERSION
from worker.gpus import Gpu
from worker.host import this_host
from worker.identity import still_lives, this_process

ROOT = Path(__file__).parents[2]
GPU = Gpu(uuid="GPU-of-no-driver", name="Pretended", capability=(9, 0), memory_bytes=2**30)


def test_a_process_lives_until_it_has_ended() -> None:
    program = "from worker.identity import this_process; print(this_process(), flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, text=True, cwd=ROOT) as other:
        assert other.stdout is not None
        said = other.stdout.readline().strip()
        assert still_lives(said) is True
        other.kill()
        other.wait()
        assert still_lives(said) is False


def test_a_process_that_nobody_has_buried_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as other:
        process = psutil.Process(other.pid)
        said = f"{this_process().split()[0]} {other.pid} {process.create_time():.0f}"
        while process.status() != psutil.STATUS_ZOMBIE:
            pass
        assert still_lives(said) is False


def test_another_process_with_the_id_of_one_is_not_it() -> None:
    machine, pid, started = this_process().split()
    assert still_lives(f"{machine} {pid} {started}") is True
    assert still_lives(f"{machine} {pid} {int(started) - 100}") is False


def test_of_a_process_on_another_machine_nothing_is_known() -> None:
    _, pid, started = this_process().split()
    assert still_lives(f"another/1 {pid} {started}") is None


def test_a_host_tells_what_it_has_and_how_busy_it_is() -> None:
    host = this_host([], git_commit=None)
    assert host.version == VERSION
    assert 1 <= host.cores <= (psutil.cpu_count() or 1)
    assert 0 < host.memory_bytes <= psutil.virtual_memory().total
    load = host.load()
    assert 0 <= load["cpu_percent"] <= 100
    assert 0 < load["memory_used_bytes"] < host.memory_bytes
    assert load["gpus"] == []


def test_the_version_names_the_commit() -> None:
    assert this_host([], git_commit="0123456789abcdef").version == f"{VERSION}+0123456789ab"


def test_what_no_driver_says_of_a_gpu_is_none() -> None:
    unknown = {"memory_used_bytes": None, "utilisation_percent": None, "temperature_celsius": None}
    assert this_host([GPU], git_commit=None).load()["gpus"] == [{"uuid": GPU.uuid, **unknown}]


def test_the_version_is_that_of_the_package() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"] == VERSION
