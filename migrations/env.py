"""How Alembic reaches the database: one connection, one advisory lock, so that two hosts may migrate at once."""

from alembic import context
from sqlalchemy import create_engine, text

from migrations import LOCK_SECONDS
from models import (  # noqa: F401 - the tables register themselves
    idempotency,
    job,
    milestone,
    named_queue,
    pace,
    predictions,
    scores,
    share,
    sweep,
    user,
    webhook,
    worker,
)
from models.base import Base
from models.settings import Settings, read_settings

_LOCK = 7_248_690_213  # any constant of our own


def run() -> None:
    """Run the migrations in one transaction, alone."""
    engine = create_engine(read_settings(Settings).database_url, connect_args={"connect_timeout": 5})
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=Base.metadata, compare_type=True)
        with context.begin_transaction():
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            # Whoever asks for a table that a migration waits for waits behind it.
            connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
            context.run_migrations()
    engine.dispose()


run()
