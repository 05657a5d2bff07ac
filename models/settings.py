"""The settings that every process shares; each process reads its own once, at its start."""

from typing import Literal

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import make_url

_DEFAULT_PASSWORDS = frozenset({"", "trainyard", "postgres", "password", "changeme", "change-me"})


class Settings(BaseSettings):
    """Where the database and the broker are, and whether this is a development machine."""

    model_config = SettingsConfigDict(env_prefix="TRAINYARD_", frozen=True, extra="ignore")

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
        if self.environment == "production" and url.host and (url.password or "") in _DEFAULT_PASSWORDS:
            raise ValueError(
                "the database password is empty or a well-known default: set one (see .env.example), "
                "or TRAINYARD_ENVIRONMENT=development on a machine of your own"
            )
        return self

    @property
    def libpq_url(self) -> str:
        """The database's address as libpq and psycopg read it."""
        return make_url(self.database_url).set(drivername="postgresql").render_as_string(hide_password=False)
