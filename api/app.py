"""The FastAPI application: routes, what they share, and how it starts and stops."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from api import health, problems
from api.datasets import routes as datasets
from api.jobs import routes as jobs
from api.news import News
from api.recipes import routes as recipes
from api.services import Services
from api.settings import ApiSettings
from api.wakes import WakeSender
from models.database import async_engine, async_sessions
from models.recipes import all_recipes


def create_app(settings: ApiSettings) -> FastAPI:
    """Return the application; nothing is connected before it starts. Raises InvalidRecipe for a bad recipe's file."""
    all_recipes()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = async_engine(settings, pool_size=settings.database_connections)
        wakes = WakeSender(settings)
        try:
            async with News(settings.libpq_url) as news:
                readers = asyncio.Semaphore(max(1, settings.database_connections // 2))
                app.state.services = Services(async_sessions(engine), news, wakes, readers)
                yield
        finally:
            wakes.close()
            await engine.dispose()

    app = FastAPI(
        title="Trainyard",
        summary="A lab's shared GPU queue: post a training job, follow its metrics, read its result.",
        version="0.1.0",
        lifespan=lifespan,
    )
    problems.install(app)
    app.include_router(jobs.router)
    app.include_router(recipes.router)
    app.include_router(datasets.router)
    app.include_router(health.router)
    return app
