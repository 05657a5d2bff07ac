"""Brings the database to the newest revision: `python -m migrations`."""

import time

from alembic import command
from alembic.script.revision import ResolutionError
from alembic.util import CommandError
from psycopg.errors import LockNotAvailable
from sqlalchemy.exc import OperationalError

from migrations import LOCK_SECONDS, config

_TRIES = 30
_PAUSE_SECONDS = 3.0  # in which those pass who waited behind it


def upgrade() -> None:
    """Migrate, in one transaction, as soon as the database answers and no table of it is held by others.

    A schema of a later version is left as it is: this version works on it. Ends the process, with what was in the way
    last, where that does not come about.
    """
    obstacle = ""
    for _ in range(_TRIES):
        try:
            command.upgrade(config(), "head")
        except CommandError as error:
            if not isinstance(error.__cause__, ResolutionError):
                raise
            print(f"migrations: the schema is of a later version, and is left as it is ({error})", flush=True)
            return
        except OperationalError as error:
            obstacle = _obstacle(error)
            print(f"migrations: {obstacle}; tries again", flush=True)
            time.sleep(_PAUSE_SECONDS)
        else:
            return
    raise SystemExit(f"migrations: given up after {_TRIES} tries: {obstacle}; mend that, and start again")


def _obstacle(error: OperationalError) -> str:
    """Say in a line what a try failed for."""
    if isinstance(error.orig, LockNotAvailable):
        return f"a table was in use for {LOCK_SECONDS} s"
    return str(error.orig).splitlines()[0]


if __name__ == "__main__":
    upgrade()
