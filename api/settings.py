"""The API's settings, from the environment."""

from pydantic import Field

from models.settings import Settings


class ApiSettings(Settings):
    """What an API process needs to know; every variable is prefixed TRAINYARD_."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65_535)
    database_connections: int = Field(default=10, ge=1)
