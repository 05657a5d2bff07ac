"""Brings the database to the newest revision: `python -m migrations`."""

import time

from alembic import command
from psycopg.errors import LockNotAvailable
from sqlalchemy.exc import OperationalError

from migrations import LOCK_SECONDS, config

_TRIES = 30
_PAUSE_SECONDS = 3.0  # in which those pass who waited behind it


def upgrade() -> None:
    """Migrate, in one transaction, as soon as no table is held by others; end the process where one always is."""
    for _ in range(_TRIES):
        try:
            command.upgrade(config(), "head")
        except OperationalError as error:
            if not isinstance(error.orig, LockNotAvailable):
                raise
            print(f"migrations: a table was in use for {LOCK_SECONDS} s; tries again", flush=True)
            time.sleep(_PAUSE_SECONDS)
        else:
            return
    raise SystemExit(f"migrations: a table was in use at each of {_TRIES} tries; end what holds it, and start again")


if __name__ == "__main__":
    upgrade()
