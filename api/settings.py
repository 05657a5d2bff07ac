"""The API's settings, from the environment."""

import ssl
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, model_validator
from pydantic_settings import NoDecode

from api.access.loopback import is_loopback
from models.settings import Settings
from models.spec import MAX_PRIORITY

# A name, `*.` and a name, or an address; a scheme or a port would never match.
Host = Annotated[str, StringConstraints(to_lower=True, pattern=r"^(\*\.)?[A-Za-z0-9_.:-]*[A-Za-z0-9]$", max_length=253)]


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class ApiSettings(Settings):
    """What an API process needs to know; every variable is prefixed TRAINYARD_."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65_535)
    database_connections: int = Field(default=10, ge=1)
    jobs_visible: Literal["lab", "own"] = "lab"  # what members read: everybody's jobs, or their own
    allow_anonymous: bool = False
    # What members may give a job; admins may give it anything from -100 to 100.
    member_min_priority: int = Field(default=-MAX_PRIORITY, ge=-MAX_PRIORITY, le=0)
    member_max_priority: int = Field(default=10, ge=0, le=MAX_PRIORITY)
    request_timeout_seconds: float = Field(default=30, gt=0, le=3_600)  # in which a request must have arrived
    rate_limit_per_minute: int = Field(default=6_000, ge=1, le=1_000_000)  # per token and process
    rate_limit_burst: int = Field(default=1_000, ge=1, le=1_000_000)
    # Webhooks are off until hosts are named, separated by commas: `hooks.lab.org`, or `*.lab.org` for all below it.
    webhook_hosts: Annotated[tuple[Host, ...], NoDecode, BeforeValidator(_split)] = ()
    webhook_private_addresses: bool = False  # whether such a host may be in the lab's own network
    webhook_ca_file: Path | None = None  # certificates of the lab's own authorities, beside those the machine trusts
    webhook_timeout_seconds: float = Field(default=10, gt=0, le=60)
    webhook_tries: int = Field(default=8, ge=1, le=20)
    webhook_retry_seconds: float = Field(default=10, gt=0, le=3_600)  # after the first try; three times that after each
    webhook_lease_seconds: float = Field(default=30, gt=0)  # until another process tries what one has begun

    @model_validator(mode="after")
    def refuse_anonymous_strangers(self) -> Self:
        """Refuse to answer without a token wherever another machine can ask."""
        if self.allow_anonymous and not is_loopback(self.host):
            raise ValueError(
                "TRAINYARD_ALLOW_ANONYMOUS needs a TRAINYARD_HOST that only this machine reaches, such as 127.0.0.1; "
                f"it is {self.host}"
            )
        return self

    @model_validator(mode="after")
    def refuse_no_certificates(self) -> Self:
        """Refuse a file of certificates that is not there, or is none."""
        if self.webhook_ca_file is not None:
            try:
                ssl.create_default_context(cafile=self.webhook_ca_file)
            except OSError as error:
                raise ValueError(
                    f"TRAINYARD_WEBHOOK_CA_FILE must name a file of certificates in PEM; {self.webhook_ca_file}: "
                    f"{error.strerror or error}"
                ) from None
        return self

    @model_validator(mode="after")
    def refuse_short_lease(self) -> Self:
        """Refuse a lease that ends while a receiver may still be answering."""
        if self.webhook_lease_seconds <= self.webhook_timeout_seconds:
            raise ValueError("TRAINYARD_WEBHOOK_LEASE_SECONDS must be more than TRAINYARD_WEBHOOK_TIMEOUT_SECONDS")
        return self
