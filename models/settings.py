"""The settings that every process shares; each process reads its own once, at its start."""

from typing import Literal

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import URL, make_url

_DEFAULT_PASSWORDS = frozenset({"", "trainyard", "postgres", "password", "changeme", "change-me"})


def _over_network(url: URL) -> bool:
    """Return whether any host of the URL, in its place or in the query, is not a socket's directory."""
    named = url.query.get("host", ())
    hosts = [url.host or "", *([named] if isinstance(named, str) else named)]
    return any(host and not host.startswith(("/", "@")) for part in hosts for host in part.split(","))


class Settings(BaseSettings):
    """Where the database and the broker are, and whether this is a development machine."""

    model_config = SettingsConfigDict(env_prefix="TRAINYARD_", frozen=True, extra="ignore", hide_input_in_errors=True)

    database_url: str = Field(
        default="postgresql+psycopg://trainyard:trainyard@127.0.0.1:5432/trainyard", validation_alias="DATABASE_URL"
    )
    redis_url: str = Field(default="redis://127.0.0.1:6379/0", validation_alias="REDIS_URL")
    redis_key_prefix: str = "trainyard:"
    environment: Literal["development", "production"] = "production"

    @model_validator(mode="after")
    def refuse_default_password(self) -> "Settings":
        """Refuse to start with a well-known database password outside development; a socket needs none."""
        url = make_url(self.database_url)
        if self.environment == "production" and _over_network(url) and (url.password or "") in _DEFAULT_PASSWORDS:
            raise ValueError(
                "the database password is empty or a well-known default: set one (see .env.example), "
                "or TRAINYARD_ENVIRONMENT=development on a machine of your own"
            )
        return self

    @property
    def libpq_url(self) -> str:
        """The database's address as libpq and psycopg read it."""
        return make_url(self.database_url).set(drivername="postgresql").render_as_string(hide_password=False)
