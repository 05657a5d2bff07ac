"""The settings that every process shares, read once at its start; `python -m models.settings` checks them."""

from functools import cache
from typing import Literal, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

_DEFAULT_PASSWORDS = frozenset({"trainyard", "postgres", "password", "changeme", "change-me"})


def _over_network(url: URL) -> bool:
    """Return whether any host of the URL, in its place or in the query, is not a socket's directory."""
    named = url.query.get("host", ())
    hosts = [url.host or "", *([named] if isinstance(named, str) else named)]
    return any(host and not host.startswith(("/", "@")) for part in hosts for host in part.split(","))


class QueueRules(BaseSettings):
    """The rules of the queue, which workers, scheduler and API all go by."""

    model_config = SettingsConfigDict(env_prefix="TRAINYARD_", frozen=True, extra="ignore", hide_input_in_errors=True)

    share_half_life_seconds: float = Field(default=604_800, ge=1)  # after it, what a user has used counts half
    ageing_seconds: float = Field(default=3_600, ge=1)  # so long without being served is worth one point of priority


class Settings(QueueRules):
    """Where the database and the broker are, and whether this is a development machine."""

    database_url: str = Field(
        default="postgresql+psycopg://trainyard:trainyard@127.0.0.1:5432/trainyard", validation_alias="DATABASE_URL"
    )
    redis_url: str = Field(default="redis://127.0.0.1:6379/0", validation_alias="REDIS_URL")
    redis_key_prefix: str = "trainyard:"
    environment: Literal["development", "production"] = "production"
    max_queued: int = Field(default=10_000, ge=0, le=1_000_000)  # waiting jobs of a user who has no limit of their own

    @field_validator("database_url", "redis_url")
    @classmethod
    def require_address(cls, url: str) -> str:
        """Refuse what is no address of a server, without repeating it: it may hold a password."""
        try:
            make_url(url)
        except (ArgumentError, ValueError):  # the latter for a port that is no number
            raise ValueError("this is no address, as scheme://user:password@host:port/name is one") from None
        return url

    @model_validator(mode="after")
    def refuse_default_password(self) -> "Settings":
        """Refuse to start with well-known passwords outside development; a database on a socket needs none."""
        if self.environment == "development":
            return self
        database, broker = make_url(self.database_url), make_url(self.redis_url)
        advice = "set one (see .env.example), or TRAINYARD_ENVIRONMENT=development on a machine of your own"
        if _over_network(database) and (not database.password or database.password in _DEFAULT_PASSWORDS):
            raise ValueError(f"the database password is empty or a well-known default: {advice}")
        if broker.password in _DEFAULT_PASSWORDS:
            raise ValueError(f"the broker's password is a well-known default: {advice}")
        return self

    @property
    def libpq_url(self) -> str:
        """The database's address as libpq and psycopg read it."""
        return make_url(self.database_url).set(drivername="postgresql").render_as_string(hide_password=False)


@cache
def queue_rules() -> QueueRules:
    """Return the rules of the queue, read once; a process that started has checked them with its settings."""
    return QueueRules()


SomeSettings = TypeVar("SomeSettings", bound=Settings)


def read_settings(kind: type[SomeSettings]) -> SomeSettings:
    """Read a process's settings from its environment, or end it with one line that names what is wrong."""
    try:
        return kind()
    except ValidationError as error:
        problems = [": ".join([*map(str, entry["loc"]), entry["msg"]]) for entry in error.errors()]
        raise SystemExit(f"settings: {'; '.join(problems)}") from None


if __name__ == "__main__":
    read_settings(Settings)
