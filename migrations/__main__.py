"""Brings the database to the newest revision: `python -m migrations`."""

from alembic import command

from migrations import config

if __name__ == "__main__":
    command.upgrade(config(), "head")
