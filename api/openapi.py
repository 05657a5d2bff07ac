"""The application's description: what FastAPI derives from the routes, and what holds for all of them by one rule."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from fastapi.routing import APIRoute

from api.codes import Responses, answers, names_in

EXAMPLES = Path(__file__).parent / "examples"  # `<operation id>.json`: bodies by a name, answers by status and type

TAGS = [
    {"name": "jobs", "description": "Trainings: submitted, followed, cancelled, and their results."},
    {"name": "metrics", "description": "The curves of a job."},
    {"name": "streams", "description": "What happens, as server-sent events."},
    {"name": "predictions", "description": "What a trained network says of each test sample."},
    {"name": "comparison", "description": "Jobs beside each other."},
    {"name": "sweeps", "description": "One job for each point of a space of parameters."},
    {"name": "queue", "description": "Who runs next, and why the others wait."},
    {"name": "workers", "description": "Where jobs run."},
    {"name": "recipes", "description": "Job specs that repeat published runs."},
    {"name": "datasets", "description": "What can be trained on."},
    {"name": "users", "description": "Who works here."},
    {"name": "tokens", "description": "How scripts say who they are."},
    {"name": "webhooks", "description": "Messages to other services about jobs."},
    {"name": "audit", "description": "Who changed what."},
    {"name": "health", "description": "For supervisors, load balancers and Prometheus; these need no token."},
]

# For the `responses` of a route that makes something.
CREATED: Responses = {
    201: {"headers": {"Location": {"description": "The path of what was made", "schema": {"type": "string"}}}}
}

_TEXT, _NUMBER = {"type": "string"}, {"type": "integer", "minimum": 0}
_HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-ID": {"description": "The id under which it was logged", "required": True, "schema": _TEXT},
    "RateLimit-Limit": {"description": "Requests that the token may make at once", "schema": _NUMBER},
    "RateLimit-Remaining": {"description": "How many of them are left", "schema": _NUMBER},
    "RateLimit-Reset": {"description": "Seconds until all are back", "schema": _NUMBER},
    "RateLimit-Policy": {"description": "Requests per window in seconds, and the burst", "schema": _TEXT},
    "Retry-After": {"description": "Seconds after which to try again", "schema": _NUMBER},
    "WWW-Authenticate": {"description": "The scheme, and why the token does not work", "schema": _TEXT},
    "Idempotency-Replayed": {"description": "`true` where this answer was given before", "schema": {"const": "true"}},
}
_RATE_LIMITS = tuple(name for name in _HEADERS if name.startswith("RateLimit-"))
_OF_STATUS = {"401": ("WWW-Authenticate",), "409": ("Retry-After",), "429": ("Retry-After",), "503": ("Retry-After",)}


def operation_id(route: APIRoute) -> str:
    """Return the id of a route's operation, after which generated clients name their methods: its function's name."""
    return route.name


def completed(document: dict[str, Any]) -> dict[str, Any]:
    """Add to FastAPI's description the errors that any route can answer with, the headers, and the examples.

    Which errors those are follows from the operation itself: whether it needs a token, takes a body, has parameters.
    """
    components = document["components"]
    components["headers"] = _HEADERS
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    for schema in components["schemas"].values():
        for field in schema.get("properties", {}).values():
            _put_default_into_words(field)
    for item in document["paths"].values():
        for operation in item.values():
            _complete(operation)
    return document


def _put_default_into_words(field: dict[str, Any]) -> None:
    """Say in a sentence what a field is by default where that is an object: generators of clients give up on it."""
    if isinstance(field.get("default"), dict):
        told = f"By default `{json.dumps(field.pop('default'))}`."
        field["description"] = f"{field['description']} {told}" if "description" in field else told


def _complete(operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    names = names_in(responses) | set(_common_codes(operation))
    for status in [status for status in responses if status >= "400"]:
        del responses[status]
    responses.update({str(status): answer for status, answer in answers(*names).items()})
    _add_headers(operation)
    _add_examples(operation)


def _common_codes(operation: dict[str, Any]) -> Iterator[str]:
    """Yield the codes of what is done with every request before its route sees it."""
    yield from ("malformed_request", "request_timeout", "headers_too_large", "internal_error")
    parameters = operation.get("parameters", [])
    if "security" in operation:
        yield from ("unauthenticated", "rate_limited", "body_too_large", "database_unavailable")
        for scope in _scopes(operation):
            yield "admin_only" if scope == "admin" else "insufficient_scope"
    if "requestBody" in operation:
        yield from ("invalid_json", "unsupported_media_type", "invalid_spec", "invalid_value")
    if any(parameter["in"] != "path" for parameter in parameters):
        yield from ("invalid_request", "invalid_value")
    if any(parameter["name"] == "Idempotency-Key" for parameter in parameters):
        yield from ("idempotency_in_flight", "idempotency_key_reused")


def _scopes(operation: dict[str, Any]) -> set[str]:
    return {scope for entry in operation["security"] for scopes in entry.values() for scope in scopes}


def _add_headers(operation: dict[str, Any]) -> None:
    is_idempotent = any(parameter["name"] == "Idempotency-Key" for parameter in operation.get("parameters", []))
    for status, answer in operation["responses"].items():
        names = ["X-Request-ID"]
        # Whoever is nobody has no limit, and what is no request is not counted.
        if "security" in operation and status not in ("400", "401", "408", "431"):
            names += _RATE_LIMITS
        names += _OF_STATUS.get(status, ())
        if is_idempotent and status.startswith("2"):
            names.append("Idempotency-Replayed")
        answer["headers"] = answer.get("headers", {}) | {
            name: {"$ref": f"#/components/headers/{name}"} for name in names
        }


def _add_examples(operation: dict[str, Any]) -> None:
    recorded = _recorded(operation["operationId"])
    for content in operation.get("requestBody", {}).get("content", {}).values():
        content["examples"] = {name: {"value": value} for name, value in recorded["bodies"].items()}
    for status, by_type in recorded["answers"].items():
        for media_type, value in by_type.items():
            operation["responses"][status]["content"][media_type]["example"] = value


@cache
def _recorded(name: str) -> dict[str, Any]:
    path = EXAMPLES / f"{name}.json"
    recorded: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return {"bodies": {}, "answers": {}} | recorded
