"""The schema's history: Alembic migrations, applied by `python -m migrations` before anything else starts."""

from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

LOCK_SECONDS = 2  # a migration waits no longer for a table that others use, and tries again


def config() -> Config:
    """Return Alembic's configuration, independent of the working directory."""
    here = Path(__file__).resolve().parent
    settings = Config()
    settings.set_main_option("script_location", str(here).replace("%", "%%"))
    settings.set_main_option("path_separator", "os")
    return settings


def head() -> str:
    """Return the revision that this code expects."""
    revision = ScriptDirectory.from_config(config()).get_current_head()
    assert revision is not None, "there is at least one migration"
    return revision
