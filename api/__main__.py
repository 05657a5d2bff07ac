"""Starts the API: `python -m api`."""

import gc
import resource
from contextlib import suppress
from socket import socket

import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.protocol import bounded_protocol
from api.settings import ApiSettings
from models.errors import InvalidRecipe
from models.logs import configure_logs
from models.settings import read_settings

_STARTUP_FAILED = 3
_MOST_OPEN_FILES = 8_192


class _Server(uvicorn.Server):
    """uvicorn waits for open requests to end by themselves; those that wait for news, and streams, have to be told."""

    def __init__(self, app: FastAPI, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Tell them, and stop."""
        self._app.state.services.end_waiting()
        await super().shutdown(sockets)


def main() -> None:
    """Serve until told to stop; open requests get a few seconds to end."""
    configure_logs()
    settings = read_settings(ApiSettings)
    try:
        app = create_app(settings)
    except InvalidRecipe as error:
        raise SystemExit(f"recipes: {error}") from None
    _allow_many_connections()
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=bounded_protocol(settings.request_timeout_seconds),
        ws="none",
        log_config=None,
        timeout_graceful_shutdown=5,
    )
    server = _Server(app, config)
    gc.collect()
    gc.freeze()  # what lives as long as the process is not looked through again: a sixth of a submission's time
    with suppress(KeyboardInterrupt):  # which uvicorn raises again when all has ended
        server.run()
    if not server.started:
        raise SystemExit(_STARTUP_FAILED)


def _allow_many_connections() -> None:
    """Raise the soft limit of open files, often 1,024: each stream is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    main()
