"""Errors as `application/problem+json` (RFC 9457): the one place where the domain's errors become HTTP."""

import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import psycopg
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel
from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.routing import Route

from models import errors
from models.validation import error_code, field_path

log = structlog.get_logger(__name__)


class ProblemField(BaseModel):
    """One bad field: its dotted path, a sentence, a stable code."""

    loc: str
    message: str
    code: str


class Problem(BaseModel):
    """An error as RFC 9457 has it, with a stable `code`."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[ProblemField] | None = None


class ProblemError(HTTPException):
    """An error of the web layer itself; the domain's errors know no HTTP."""

    def __init__(self, status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> None:
        """`code` is stable, `detail` is a sentence."""
        super().__init__(status, detail, headers)
        self.code = code


STATUS_OF: dict[type[errors.TrainyardError], int] = {
    errors.InvalidSpec: 422,
    errors.JobNotFound: 404,
    errors.RecipeNotFound: 404,
    errors.DatasetNotFound: 404,
    errors.JobNotFinished: 409,
    errors.NoResult: 409,
    errors.NoPredictions: 409,
    errors.NotAClassification: 422,
    errors.IllegalMove: 409,
    errors.JobInUse: 409,
    errors.DependencyFailed: 409,
    errors.NotYours: 403,
    errors.SweepNotFound: 404,
    errors.QueueNotFound: 404,
    errors.QueueLimit: 429,
    errors.PriorityNotAllowed: 422,
    errors.WorkerNotFound: 404,
    errors.UserNotFound: 404,
    errors.UserExists: 409,
    errors.UserDisabled: 409,
    errors.ReservedUser: 409,
    errors.LastAdmin: 409,
    errors.TokenNotFound: 404,
    errors.ScopeExceedsRole: 422,
    errors.BadExpiry: 422,
    errors.WebhookNotFound: 404,
    errors.DeliveryNotFound: 404,
    errors.WebhookHostNotAllowed: 422,
    errors.WebhookAddressNotAllowed: 422,
    errors.WebhookDisabled: 409,
    errors.TooManyTokens: 409,
    errors.TooManyWebhooks: 409,
}

# SQLSTATEs. A statement that is too much for Postgres is our mistake, though drivers call it operational; that a
# transaction took too long and was ended is none, though they call it internal.
_PROGRAM_LIMIT = "54"
_ENDED = ("25P03", "25P04")

_CODE_OF_STATUS = {404: "not_found", 405: "method_not_allowed"}  # of those that the framework itself raises


def install(app: FastAPI) -> None:
    """Register the handlers: every error of this application is a problem."""
    app.add_exception_handler(errors.TrainyardError, _domain_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    for data_error in (DataError, psycopg.DataError):
        app.add_exception_handler(data_error, _data_error)
    for database_error in (DBAPIError, psycopg.Error, PoolTimeout):
        app.add_exception_handler(database_error, _database_error)
    app.add_exception_handler(Exception, _unexpected_error)


def bad_header(name: str, message: str, code: str) -> RequestValidationError:
    """Return the error that refuses a header: a sentence about it and a stable code."""
    return RequestValidationError([{"loc": ("header", name), "msg": message, "type": code}])


def problem(
    status: int, code: str, detail: str, fields: Sequence[errors.FieldError] = (), headers: dict[str, str] | None = None
) -> Response:
    """Return a problem as a response."""
    body = problem_body(status, code, detail, fields)
    # ASCII: an error may quote a name with a lone surrogate, which UTF-8 cannot carry.
    return Response(json.dumps(body, ensure_ascii=True), status, media_type="application/problem+json", headers=headers)


def problem_body(status: int, code: str, detail: str, fields: Sequence[errors.FieldError] = ()) -> dict[str, Any]:
    """Return a problem as JSON; in a response it must be written in ASCII."""
    body: dict[str, Any] = {
        "type": f"urn:trainyard:problem:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "detail": detail,
        "code": code,
    }
    if fields:
        body["errors"] = [{"loc": field.loc, "message": field.message, "code": field.code} for field in fields]
    return body


async def _domain_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.TrainyardError), "registered for it"
    fields = error.errors if isinstance(error, errors.InvalidSpec) else ()
    return problem(STATUS_OF[type(error)], error.code, str(error), fields)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError), "registered for it"
    fields = [_field(entry, error.body) for entry in error.errors()]
    in_body = any(entry["loc"][0] == "body" for entry in error.errors())
    detail = "; ".join(f"{field.loc}: {field.message}" if field.loc else field.message for field in fields)
    return problem(422, "invalid_spec" if in_body else "invalid_request", detail, fields)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "registered for it"
    code = (
        error.code if isinstance(error, ProblemError) else _CODE_OF_STATUS.get(error.status_code, "malformed_request")
    )
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = _allowed_methods(request)
    return problem(error.status_code, code, str(error.detail), headers=headers)


def _allowed_methods(request: Request) -> str:
    """Return all methods of a path; the framework names those of the first of its routes alone, and HEAD of none."""
    routes = (context.original_route for context in iter_route_contexts(request.app.routes))
    here = [route for route in routes if isinstance(route, Route) and route.path_regex.match(request.scope["path"])]
    methods = {method for route in here for method in route.methods or ()}
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


async def _data_error(request: Request, error: Exception) -> Response:
    return problem(422, "invalid_value", "The database cannot store a value of this request.")


async def _database_error(request: Request, error: Exception) -> Response:
    if not _is_away(error):
        return await _unexpected_error(request, error)
    log.warning("database_error", path=request.url.path, detail=str(error).partition("\n")[0])
    return problem(503, "database_unavailable", "The database does not answer.", headers={"Retry-After": "1"})


def _is_away(error: Exception) -> bool:
    """Tell whether the database could not do what it was asked to, but may another time; else the mistake is ours."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    state = str(getattr(error.orig if isinstance(error, DBAPIError) else error, "sqlstate", None))
    operational = (OperationalError, InterfaceError, psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout)
    return state in _ENDED or (isinstance(error, operational) and not state.startswith(_PROGRAM_LIMIT))


async def _unexpected_error(request: Request, error: Exception) -> Response:
    log.error("unexpected_error", path=request.url.path, exc_info=error)
    return problem(500, "internal_error", "An unexpected error; it has been logged.")


def _field(entry: Any, body: Any) -> errors.FieldError:
    where, *path = entry["loc"]
    loc = field_path(entry, path, body) if where == "body" else ".".join(map(str, path))
    return errors.FieldError(loc, entry["msg"], error_code(entry))
