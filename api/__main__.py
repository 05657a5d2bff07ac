"""Starts the API: `python -m api`."""

import uvicorn

from api.app import create_app
from api.settings import ApiSettings
from models.errors import InvalidRecipe
from models.logs import configure_logs
from models.settings import read_settings


def main() -> None:
    """Serve until told to stop; open requests get a few seconds to end."""
    configure_logs()
    settings = read_settings(ApiSettings)
    try:
        app = create_app(settings)
    except InvalidRecipe as error:
        raise SystemExit(f"recipes: {error}") from None
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        log_config=None,
        timeout_graceful_shutdown=5,
    )


if __name__ == "__main__":
    main()
