"""What one process of the API opens when it starts, and closes when it ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from api.access.known_tokens import KnownTokens
from api.access.rate_limits import RateLimits
from api.listener import Listener
from api.news import News
from api.queue.line import Line
from api.services import Services
from api.settings import ApiSettings
from api.statements import Statements
from api.streams.fan_out import FanOut
from api.wakes import WakeSender
from api.webhooks.delivery import Deliverer
from api.webhooks.destinations import Destinations
from models.database import async_engine, async_sessions
from models.job import CHANNEL
from models.user import ACCESS_CHANNEL


@asynccontextmanager
async def open_services(settings: ApiSettings) -> AsyncIterator[Services]:
    """Connect to database and broker, listen for changes, and deliver webhooks, for as long as the process serves."""
    engine = async_engine(settings, pool_size=settings.database_connections)
    wakes = WakeSender(settings)
    try:
        sessions = async_sessions(engine)
        known = KnownTokens(sessions)
        news = News()
        streams = FanOut(sessions, news)
        destinations = Destinations(settings.webhook_hosts, private_addresses=settings.webhook_private_addresses)
        deliverer = Deliverer(sessions, destinations, settings)
        at_once = max(1, settings.database_connections // 2)
        listener = _listener(settings, known, news, streams)
        async with Statements(settings.libpq_url, at_once) as statements, streams, listener, deliverer:
            services = Services(
                settings=settings,
                sessions=sessions,
                read_sessions=async_sessions(engine.execution_options(isolation_level="AUTOCOMMIT")),
                news=news,
                wakes=wakes,
                readers=asyncio.Semaphore(at_once),
                statements=statements,
                tokens=known,
                limits=RateLimits(settings.rate_limit_per_minute, settings.rate_limit_burst),
                destinations=destinations,
                streams=streams,
                line=Line(sessions, settings),
            )
            news.watch(services.answers.forget)
            yield services
    finally:
        wakes.close()
        await engine.dispose()


def _listener(settings: ApiSettings, known: KnownTokens, news: News, streams: FanOut) -> Listener:
    """Return who hears what other processes have changed, and also tells when nothing is heard any more."""

    def forget_access(payload: str) -> None:
        known.forget(payload)
        news.doubt_callers()
        streams.doubt_callers()

    def hear(hears: bool) -> None:
        known.hear(hears)
        news.hear(hears)
        streams.doubt_callers()

    return Listener(settings.libpq_url, {ACCESS_CHANNEL: forget_access, CHANNEL: news.heard}, hear)
