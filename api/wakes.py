"""Sends wake-ups to the workers from a thread of its own: a slow or absent broker never holds up an answer."""

import threading
from collections import Counter
from typing import Any

import structlog
from celery import Celery
from kombu.exceptions import OperationalError as BrokerAway
from redis.exceptions import RedisError

from api.settings import ApiSettings
from models.faults import FaultPoint, fault_point
from models.wake import WAKE_TASK, celery_settings

log = structlog.get_logger(__name__)

_SOCKET_TIMEOUT_SECONDS = 1
# A message costs more than a millisecond of the process, and a worker that wakes looks for all its idle slots.
_GATHER_SECONDS = 0.05
_MOST_AT_ONCE = 4  # of a queue: each wakes another worker
_CONNECTION_ERRORS = (BrokerAway, RedisError, OSError)


class WakeSender:
    """Sends a wake-up at once, and those that follow closely together, a few for all of a queue.

    One that cannot be sent is dropped: workers and scheduler find the job anyway.
    """

    def __init__(self, settings: ApiSettings) -> None:
        """Start the sending thread; the broker is reached at the first wake-up."""
        self._app = Celery("trainyard-api", set_as_current=False)
        self._app.conf.update(celery_settings(settings, socket_timeout_seconds=_SOCKET_TIMEOUT_SECONDS))
        self._due: Counter[str] = Counter()  # by queue, behind the lock of `_changed`
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._send_all, name="wakes", daemon=True)
        self._thread.start()

    async def send(self, queue_name: str, jobs: int = 1) -> None:
        """Say that so many jobs wait in a queue since now; returns at once."""
        with self._changed:  # held by the thread for as long as it takes to look
            self._due[queue_name] += jobs
            self._changed.notify()

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
        """Stop the thread after what is being sent; what is left is found by the workers."""
        self._closed.set()
        with self._changed:
            self._changed.notify()
        self._thread.join(2 * _SOCKET_TIMEOUT_SECONDS)

    def _send_all(self) -> None:
        while not self._closed.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._due or self._closed.is_set())
                due, self._due = self._due, Counter()
            for name, jobs in due.items():
                self._send(name, min(jobs, _MOST_AT_ONCE))
            self._closed.wait(_GATHER_SECONDS)

    def _send(self, name: str, times: int) -> None:
        fault_point(FaultPoint.SUBMITTED)
        try:
            for _ in range(times):
                self._app.send_task(WAKE_TASK, args=[name], queue=name, retry=False, ignore_result=True)
        except BrokerAway as error:
            log.warning("wake_not_sent", queue=name, detail=str(error))
