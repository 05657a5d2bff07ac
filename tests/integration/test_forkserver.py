"""The forkserver of a worker that is killed while it warms up."""

import subprocess
import sys

DIES_WHILE_IT_WAITS = """
import os, signal
from multiprocessing.connection import Connection

from worker.forkserver import WarmForkserver, forkserver

if __name__ == "__main__":
    Connection.recv = lambda _: os.kill(os.getpid(), signal.SIGKILL)
    WarmForkserver(forkserver()).make_ready()
"""


def test_the_forkserver_of_a_killed_worker_ends_and_leaves_no_traceback_in_the_log() -> None:
    ended = subprocess.run([sys.executable, "-c", DIES_WHILE_IT_WAITS], capture_output=True, timeout=120, check=False)
    assert ended.returncode == -9
    assert ended.stderr == b""
