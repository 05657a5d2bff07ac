"""The FastAPI application: routes, what they share, and how it starts and stops."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from api import health, pages, problems
from api.audit import routes as audit
from api.comparisons import routes as comparisons
from api.datasets import routes as datasets
from api.envelope import Envelope
from api.events import routes as events
from api.jobs import actions, batch, deletion
from api.jobs import routes as jobs
from api.lifespan import open_services
from api.metrics import routes as metrics
from api.monitoring import routes as monitoring
from api.monitoring.monitor import Monitor
from api.monitoring.traffic import Counted
from api.openapi import TAGS, completed, operation_id
from api.predictions import routes as predictions
from api.queue import routes as queue
from api.recipes import routes as recipes
from api.settings import ApiSettings
from api.streams import routes as stream_routes
from api.sweeps import routes as sweeps
from api.tokens import routes as tokens
from api.users import routes as users
from api.webhooks import routes as webhooks
from api.workers import routes as workers
from models.recipes import all_recipes
from models.version import VERSION

# They are searched in this order, so what is asked for most comes first.
_ROUTERS = (
    metrics.router,
    jobs.router,
    batch.router,
    actions.router,
    deletion.router,
    stream_routes.router,
    events.router,
    predictions.router,
    comparisons.router,
    sweeps.router,
    queue.router,
    recipes.router,
    datasets.router,
    users.router,
    tokens.router,
    webhooks.router,
    workers.router,
    audit.router,
    health.router,
    monitoring.router,
)


def create_app(settings: ApiSettings) -> FastAPI:
    """Return the application; nothing is connected before it starts. Raises InvalidRecipe for a bad recipe's file."""
    all_recipes()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_services(settings) as services:
            app.state.services = services
            yield

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
    for router in _ROUTERS:
        app.include_router(router)
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
