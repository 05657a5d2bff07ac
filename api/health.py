"""Is the process alive, and can it serve: database, broker and migrations."""

import asyncio
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy import text

from api.codes import answers
from api.problems import ProblemError
from api.services import ServicesDep
from migrations import head

router = APIRouter(tags=["health"])

_EXPECTED_REVISION = head()


class Alive(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Ready(BaseModel):
    """Everything that a request needs is there."""

    status: Literal["ready"] = "ready"
    revision: str


@router.get("/healthz")
async def check_health() -> Alive:
    """Answer as long as the process lives, whatever else is down."""
    return Alive()


@router.get("/readyz", responses=answers("not_migrated", "broker_unavailable", "database_unavailable"))
async def check_readiness(services: ServicesDep) -> Ready:
    """Check database, migrations and broker."""
    async with services.sessions() as session:
        has_any = await session.scalar(text("SELECT to_regclass('alembic_version') IS NOT NULL"))
        revision = await session.scalar(text("SELECT version_num FROM alembic_version")) if has_any else None
    if revision != _EXPECTED_REVISION:
        raise ProblemError(
            503, "not_migrated", f"The database is at revision {revision}, this code expects {_EXPECTED_REVISION}."
        )
    if not await asyncio.to_thread(services.wakes.reachable):
        raise ProblemError(503, "broker_unavailable", "The broker does not answer.")
    return Ready(revision=_EXPECTED_REVISION)
