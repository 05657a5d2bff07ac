"""Sends wake-ups to the workers from a thread of its own: a slow or absent broker never holds up an answer."""

import queue
import threading
from typing import Any

import structlog
from celery import Celery
from kombu.exceptions import OperationalError as BrokerAway
from redis.exceptions import RedisError

from api.settings import ApiSettings
from models.wake import WAKE_TASK, celery_settings

log = structlog.get_logger(__name__)

_SOCKET_TIMEOUT_SECONDS = 1
_BACKLOG = 1_000
_CONNECTION_ERRORS = (BrokerAway, RedisError, OSError)


class WakeSender:
    """A bounded backlog of wake-ups; one that cannot be sent is dropped: workers and scheduler find the job anyway."""

    def __init__(self, settings: ApiSettings) -> None:
        """Start the sending thread; the broker is reached at the first wake-up."""
        self._app = Celery("trainyard-api", set_as_current=False)
        self._app.conf.update(celery_settings(settings, socket_timeout_seconds=_SOCKET_TIMEOUT_SECONDS))
        self._backlog: queue.Queue[str | None] = queue.Queue(_BACKLOG)
        self._thread = threading.Thread(target=self._send_all, name="wakes", daemon=True)
        self._thread.start()

    async def send(self, queue_name: str) -> None:
        """Say that a queue has work; returns at once."""
        try:
            self._backlog.put_nowait(queue_name)
        except queue.Full:
            log.warning("wake_dropped", queue=queue_name)

    def reachable(self) -> bool:
        """Ask whether the broker answers; blocks for up to a few seconds."""
        with self._app.connection_for_write() as connection:
            try:
                connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=2)
                channel: Any = connection.default_channel
                channel.client.ping()  # redis-py's client, by Kombu's Redis transport
            except _CONNECTION_ERRORS:
                return False
        return True

    def close(self) -> None:
        """Stop the thread after what is being sent."""
        try:
            self._backlog.put_nowait(None)
        except queue.Full:
            return  # it is a daemon thread, and what is left in the backlog is found by the workers
        self._thread.join(2 * _SOCKET_TIMEOUT_SECONDS)

    def _send_all(self) -> None:
        while (name := self._backlog.get()) is not None:
            try:
                self._app.send_task(WAKE_TASK, args=[name], queue=name, retry=False, ignore_result=True)
            except BrokerAway as error:
                log.warning("wake_not_sent", queue=name, detail=str(error))
