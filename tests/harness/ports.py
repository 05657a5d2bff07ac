"""Free TCP ports for what a test starts: below the kernel's own range, from a place of each test process's own."""

import os
import socket
from itertools import count

_FIRST, _PORTS = 10_000, 20_000
_STEP = 7_919  # a prime: processes whose ids are near each other begin far from each other
_numbers = count(os.getpid() * _STEP)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on, and that no connection is given before it is listened on."""
    while True:
        port = _FIRST + next(_numbers) % _PORTS
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:  # somebody's
            continue
