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
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]  # the stubs have no private names
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            log.warning("message_dropped", detail=f"{type(error).__name__}: {error}"[:200])
            # It would count as one that is being worked on, and no other would come; there is never more than one.
            qos: Any = self.qos  # kombu has no public way to ask
            for tag in list(qos._delivered):  # noqa: SLF001
                qos.ack(tag)
            qos._delivered.clear()  # noqa: SLF001
            qos._dirty.clear()  # noqa: SLF001
            raise Empty from None


class Transport(redis.Transport):
    """Kombu's transport with that channel."""

    Channel = _Channel


def install() -> None:
    """Let every connection of this process whose URL says Redis go this way."""
    path = f"{Transport.__module__}:{Transport.__qualname__}"
    kombu.transport.TRANSPORT_ALIASES.update(redis=path, rediss=path)
