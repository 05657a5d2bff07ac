"""The task that empties the outbox: at least once, again after failures, with no connection held while it sends."""

import asyncio
import random
import time
from types import TracebackType

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from api.settings import ApiSettings
from api.webhooks import outbox
from api.webhooks.destinations import Destinations
from api.webhooks.messages import headers_of
from api.webhooks.outbox import Claim
from api.webhooks.sending import Sender

log = structlog.get_logger(__name__)

_POLL_SECONDS = 1.0
_GROWTH = 3.0


def retry_seconds(nth_try: int, base_seconds: float) -> float:
    """Return how long to wait after the nth try, counted from 1: three times as long each time, 20 % jitter.

    With 10 s, eight tries are spread over three hours.
    """
    jitter = random.uniform(0.8, 1.2)  # noqa: S311 - so that those who failed together do not come back together
    return float(base_seconds * _GROWTH ** (nth_try - 1) * jitter)


class Deliverer:
    """Sends what is due, for as long as it is entered; any number of processes share the work."""

    def __init__(
        self, sessions: async_sessionmaker[AsyncSession], destinations: Destinations, settings: ApiSettings
    ) -> None:
        """Take deliveries from this database; without an allowed host there is nothing to do."""
        self._sessions = sessions
        self._settings = settings
        self._sender = Sender(
            destinations, timeout_seconds=settings.webhook_timeout_seconds, ca_file=settings.webhook_ca_file
        )
        self._sending: dict[asyncio.Task[None], Claim] = {}
        self._loop: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Deliverer":
        if self._settings.webhook_hosts:
            self._loop = asyncio.create_task(self._run(), name="webhooks")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What is broken off here is sent again when its lease has ended.
        tasks = [*self._sending] if self._loop is None else [self._loop, *self._sending]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._sender.aclose()

    async def _run(self) -> None:
        while True:
            try:
                claims = await self._claim()
            except (SQLAlchemyError, OSError) as error:
                log.warning("webhooks_interrupted", detail=str(error).splitlines()[0])
                claims = []
            for claim in claims:
                task = asyncio.create_task(self._deliver(claim))
                self._sending[task] = claim
                task.add_done_callback(self._sending.pop)
            if not claims:
                await self._pause()

    async def _claim(self) -> list[Claim]:
        sending = list(self._sending.values())
        if len(sending) == outbox.MOST_AT_ONCE:
            return []
        async with self._sessions.begin() as session:
            return await outbox.claim_due(session, sending, lease_seconds=self._settings.webhook_lease_seconds)

    async def _pause(self) -> None:
        """Return when a try has ended, and something may be due behind it, or after a moment."""
        if self._sending:
            await asyncio.wait(self._sending, timeout=_POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(_POLL_SECONDS)

    async def _deliver(self, claim: Claim) -> None:
        headers = headers_of(claim.message_id, int(time.time()), claim.body, claim.secret)
        outcome = await self._sender.post(claim.url, headers, claim.body)
        log.info(
            "webhook_sent",
            message=claim.message_id,
            attempt=claim.attempt,
            status_code=outcome.status_code,
            error=outcome.error,
        )
        try:
            async with self._sessions.begin() as session:
                await outbox.record(
                    session,
                    claim,
                    outcome,
                    tries=self._settings.webhook_tries,
                    retry_seconds=retry_seconds(claim.nth_try, self._settings.webhook_retry_seconds),
                )
        except (SQLAlchemyError, OSError) as error:
            # Due again at the end of the lease: the receiver may get it twice, under the same id.
            log.warning("webhook_not_recorded", message=claim.message_id, detail=str(error).splitlines()[0])
