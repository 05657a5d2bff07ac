"""The FastAPI application: routes, what they share, and how it starts and stops."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from api import health, pages, problems
from api.access.known_tokens import KnownTokens
from api.access.rate_limits import RateLimits
from api.audit import routes as audit
from api.comparisons import routes as comparisons
from api.datasets import routes as datasets
from api.envelope import Envelope
from api.events import routes as events
from api.jobs import actions, batch, deletion
from api.jobs import routes as jobs
from api.listener import Listener
from api.metrics import routes as metrics
from api.monitoring import routes as monitoring
from api.monitoring.monitor import Monitor
from api.monitoring.traffic import Counted
from api.news import News
from api.openapi import TAGS, completed, operation_id
from api.predictions import routes as predictions
from api.queue import routes as queue
from api.queue.line import Line
from api.recipes import routes as recipes
from api.services import Services
from api.settings import ApiSettings
from api.statements import Statements
from api.streams import routes as stream_routes
from api.streams.fan_out import FanOut
from api.sweeps import routes as sweeps
from api.tokens import routes as tokens
from api.users import routes as users
from api.wakes import WakeSender
from api.webhooks import routes as webhooks
from api.webhooks.delivery import Deliverer
from api.webhooks.destinations import Destinations
from api.workers import routes as workers
from models.database import async_engine, async_sessions
from models.job import CHANNEL
from models.recipes import all_recipes
from models.user import ACCESS_CHANNEL
from models.version import VERSION


def create_app(settings: ApiSettings) -> FastAPI:
    """Return the application; nothing is connected before it starts. Raises InvalidRecipe for a bad recipe's file."""
    all_recipes()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = async_engine(settings, pool_size=settings.database_connections)
        wakes = WakeSender(settings)
        try:
            sessions = async_sessions(engine)
            reading = async_sessions(engine.execution_options(isolation_level="AUTOCOMMIT"))
            known = KnownTokens(sessions)
            news = News()
            streams = FanOut(sessions, news)

            def forget_access(payload: str) -> None:
                known.forget(payload)
                news.doubt_callers()
                streams.doubt_callers()

            def hear(hears: bool) -> None:
                known.hear(hears)
                news.hear(hears)
                streams.doubt_callers()

            listener = Listener(settings.libpq_url, {ACCESS_CHANNEL: forget_access, CHANNEL: news.heard}, hear)
            destinations = Destinations(settings.webhook_hosts, private_addresses=settings.webhook_private_addresses)
            deliverer = Deliverer(sessions, destinations, settings)
            at_once = max(1, settings.database_connections // 2)
            async with Statements(settings.libpq_url, at_once) as statements, streams, listener, deliverer:
                readers = asyncio.Semaphore(at_once)
                line = Line(sessions, settings)
                limits = RateLimits(settings.rate_limit_per_minute, settings.rate_limit_burst)
                app.state.services = Services(
                    settings,
                    sessions,
                    reading,
                    news,
                    wakes,
                    readers,
                    statements,
                    known,
                    limits,
                    destinations,
                    streams,
                    line,
                )
                news.watch(app.state.services.answers.forget)
                yield
        finally:
            wakes.close()
            await engine.dispose()

    app = _Application(
        title="Trainyard",
        summary="A lab's shared GPU queue: post a training job, follow its metrics, read its result.",
        version=VERSION,
        lifespan=lifespan,
        openapi_tags=TAGS,
        docs_url=None,  # `pages` has them
        redoc_url=None,
        generate_unique_id_function=operation_id,
        redirect_slashes=False,  # each resource has one path
        separate_input_output_schemas=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.monitor = Monitor()
    problems.install(app)
    # They are searched in this order, so what is asked for most comes first.
    app.include_router(metrics.router)
    app.include_router(jobs.router)
    app.include_router(batch.router)
    app.include_router(actions.router)
    app.include_router(deletion.router)
    app.include_router(stream_routes.router)
    app.include_router(events.router)
    app.include_router(predictions.router)
    app.include_router(comparisons.router)
    app.include_router(sweeps.router)
    app.include_router(queue.router)
    app.include_router(recipes.router)
    app.include_router(datasets.router)
    app.include_router(users.router)
    app.include_router(tokens.router)
    app.include_router(webhooks.router)
    app.include_router(workers.router)
    app.include_router(audit.router)
    app.include_router(health.router)
    app.include_router(monitoring.router)
    pages.install(app)
    return app


class _Application(FastAPI):
    """FastAPI within the envelope, which is to be around the answer to an unexpected error too."""

    def openapi(self) -> dict[str, Any]:
        """Return the API's description."""
        if self.openapi_schema is None:
            self.openapi_schema = completed(super().openapi())
        return self.openapi_schema

    def build_middleware_stack(self) -> ASGIApp:
        """Return the whole application."""
        return Envelope(Counted(super().build_middleware_stack(), self.state.monitor.traffic))
