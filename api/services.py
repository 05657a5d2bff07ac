"""What requests share: database sessions, news of changes, and the sender of wake-ups, as parameter types."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from api.access.known_tokens import KnownTokens
from api.access.rate_limits import RateLimits
from api.checks import Checks
from api.deadline import within_limit
from api.jobs.texts import JobTexts
from api.metrics.answers import Answers
from api.news import News
from api.queue.line import Line
from api.settings import ApiSettings
from api.statements import Statements
from api.streams.fan_out import FanOut
from api.wakes import WakeSender
from api.webhooks.destinations import Destinations


@dataclass(frozen=True)
class Services:
    """Opened once per process."""

    settings: ApiSettings
    sessions: async_sessionmaker[AsyncSession]
    read_sessions: async_sessionmaker[AsyncSession]
    news: News
    wakes: WakeSender
    readers: asyncio.Semaphore
    statements: Statements
    tokens: KnownTokens
    limits: RateLimits
    destinations: Destinations
    streams: FanOut
    line: Line
    answers: Answers = field(default_factory=Answers)
    texts: JobTexts = field(default_factory=JobTexts)
    # One at a time: two threads that compute would take the interpreter from all other requests.
    comparing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    checks: Checks = field(default_factory=Checks)

    def end_waiting(self) -> None:
        """Let all requests that wait for news, and all streams, end now: the process stops."""
        self.news.end()
        self.streams.end()


def services_of(request: Request) -> Services:
    """Return what this request shares with all others."""
    services: Services = request.app.state.services
    return services


async def _services(request: Request) -> Services:  # async: a plain function would be called in a thread
    return services_of(request)


ServicesDep = Annotated[Services, Depends(_services)]


async def _session(services: ServicesDep) -> AsyncIterator[AsyncSession]:
    async with within_limit(), services.sessions.begin() as session:
        yield session


async def _read_session(services: ServicesDep) -> AsyncIterator[AsyncSession]:
    async with within_limit(), services.read_sessions() as session:
        yield session


# Each statement by itself, without the two trips to begin and to end a transaction: for reads.
ReadSessionDep = Annotated[AsyncSession, Depends(_read_session, scope="function")]

# One transaction per request; scope="function" commits before the answer, so no failed commit is answered with success.
SessionDep = Annotated[AsyncSession, Depends(_session, scope="function")]
