"""The route that Prometheus scrapes."""

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from api.services import ServicesDep

router = APIRouter(tags=["health"])

_SCHEMA = {"type": "string", "description": "Prometheus' text format, version 0.0.4"}


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {"schema": _SCHEMA}}}})
async def export_metrics(request: Request, services: ServicesDep) -> Response:
    """Show counts and times for Prometheus, of no one job and no one person; also while the database is away."""
    text = await request.app.state.monitor.text(services.read_sessions)
    return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)
