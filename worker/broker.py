"""The way to the broker as Celery's Redis transport, which survives what is no message: that would end the worker."""

from queue import Empty
from typing import Any

import kombu.transport
import structlog
from kombu.transport import redis

log = structlog.get_logger(__name__)


class _Channel(redis.Channel):
    """Drops what it cannot read. A wake-up that is lost with it is no loss: scheduler and workers find the job."""

    def _brpop_read(self, **options: Any) -> Any:
        held = self._unfinished()
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]  # the stubs have no private names
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            log.warning("message_dropped", detail=f"{type(error).__name__}: {error}"[:200])
            for tag in self._unfinished() - held:
                self.qos.ack(tag)  # it would count as one that is being worked on, and no other would come
            raise Empty from None

    def _unfinished(self) -> set[str]:
        return set(self.qos._delivered or ())  # noqa: SLF001 - kombu has no other way to ask


class Transport(redis.Transport):
    """Kombu's transport with that channel."""

    Channel = _Channel


def install() -> None:
    """Let every connection of this process whose URL says Redis go this way."""
    path = f"{Transport.__module__}:{Transport.__qualname__}"
    kombu.transport.TRANSPORT_ALIASES.update(redis=path, rediss=path)
