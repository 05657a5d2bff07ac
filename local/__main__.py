"""The command line of the local stack: `python -m local up`, `servers`, `demo` and `check-migrations`."""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

import httpx2

from local.children import StackError
from local.demo import demo
from local.stack import Stack

_INTERRUPTED = 128 + signal.SIGINT


def main() -> int:
    """Run one command; return its exit status."""
    arguments = _parse()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        if arguments.command == "up":
            return _up(arguments.data_dir, arguments.port, arguments.slots)
        if arguments.command == "servers":
            return _servers(arguments.data_dir)
        return demo() if arguments.command == "demo" else _check_migrations()
    except KeyboardInterrupt:
        return 0 if arguments.command in ("up", "servers") else _INTERRUPTED
    except (StackError, OSError, httpx2.HTTPError) as error:
        print(f"trainyard: {error}", file=sys.stderr)
        return 1


def _up(data_dir: Path, port: int, slots: int) -> NoReturn:
    """Run the service in the foreground until a signal or a child's end."""
    with Stack(data_dir, port, slots=slots) as stack:
        print(f"Trainyard is ready at {stack.base_url}", flush=True)
        stack.watch()


def _servers(data_dir: Path) -> NoReturn:
    """Run database and broker alone in the foreground, with the tables there, until a signal or a child's end."""
    stack = Stack(data_dir)
    try:
        stack.start(services=False)
        print(f"Postgres is ready at {stack.database_url.replace('+psycopg', '', 1)}", flush=True)
        stack.watch()
    finally:
        stack.stop()


def _check_migrations() -> int:
    """Migrate an empty database and compare it with the tables that the code declares."""
    with tempfile.TemporaryDirectory(prefix="trainyard-migrations-") as folder:
        stack = Stack(Path(folder))
        try:
            stack.start(services=False)
            stack.run_module("alembic", "-c", str(Path(__file__).parents[1] / "alembic.ini"), "check")
        finally:
            stack.stop()
    print("the migrations make the tables that models/ declares")
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Unwind, which stops every child; a second signal must not break off the stopping."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="run the service in the foreground")
    up.add_argument("--port", type=_number(1, 65535), default=8000, help="where the API listens (default: 8000)")
    servers = commands.add_parser("servers", help="run database and broker alone, to restore a backup")
    for command in (up, servers):
        command.add_argument(
            "--data-dir", type=Path, default=Path(".trainyard"), help="kept between starts (default: .trainyard)"
        )
    slots = max(1, (os.cpu_count() or 1) // 2)
    up.add_argument("--slots", type=_number(1, 64), default=slots, help=f"jobs at once (default: {slots})")
    commands.add_parser("demo", help="train a network on handwritten digits and print its result")
    commands.add_parser("check-migrations", help="compare the migrations with the tables of models/")
    return parser.parse_args()


def _number(lowest: int, highest: int) -> Callable[[str], int]:
    """Return a reader of whole numbers from `lowest` to `highest`."""

    def read(text: str) -> int:
        if not text.isdecimal() or not lowest <= int(text) <= highest:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {lowest} to {highest}")
        return int(text)

    return read


if __name__ == "__main__":
    sys.exit(main())
