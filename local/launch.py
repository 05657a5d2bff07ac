"""What a child does before it becomes its program: give up root where it must, and tie itself to our life.

Run as a script of its own, since between fork and exec a process with threads may not run Python.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def launch(parent: int, orphan_signal: int, owner: str, command: list[str]) -> None:
    """Become `command`, as the user `owner` ("uid:gid", or empty), to be sent `orphan_signal` when `parent` is gone."""
    for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored_by_python, signal.SIG_DFL)
    if owner:
        uid, gid = map(int, owner.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, orphan_signal)  # last: a change of user clears it
    if os.getppid() == parent:  # else it is gone already
        os.execv(command[0], command)  # noqa: S606 - there is no shell, as it should be


if __name__ == "__main__":
    launch(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
