"""Starts the API: `python -m api`."""

import uvicorn

from api.app import create_app
from api.settings import ApiSettings
from models.logs import configure_logs
from models.settings import read_settings


def main() -> None:
    """Serve until told to stop; open requests get a few seconds to end."""
    configure_logs()
    settings = read_settings(ApiSettings)
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        log_config=None,
        timeout_graceful_shutdown=5,
    )


if __name__ == "__main__":
    main()
