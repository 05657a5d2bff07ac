"""What requests share: database sessions, news of changes, and the sender of wake-ups, as parameter types."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from api.news import News
from api.wakes import WakeSender


@dataclass(frozen=True)
class Services:
    """Opened once per process."""

    sessions: async_sessionmaker[AsyncSession]
    news: News
    wakes: WakeSender
    readers: asyncio.Semaphore


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(_services)]


async def _session(services: ServicesDep) -> AsyncIterator[AsyncSession]:
    async with services.sessions.begin() as session:
        yield session


# One transaction per request; scope="function" commits before the answer, so no failed commit is answered with success.
SessionDep = Annotated[AsyncSession, Depends(_session, scope="function")]
