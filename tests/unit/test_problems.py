"""Errors of the database: what may pass is an outage, a bad value is the caller's, all else is a mistake of ours."""

from typing import Any

import psycopg
import pytest
from fastapi import FastAPI
from psycopg import errors
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.testclient import TestClient

from api import problems

AWAY = [
    errors.QueryCanceled,
    errors.LockNotAvailable,
    errors.TooManyConnections,
    errors.DiskFull,
    errors.AdminShutdown,
    errors.CannotConnectNow,
    errors.DeadlockDetected,
    errors.SerializationFailure,
    errors.IdleInTransactionSessionTimeout,
    psycopg.OperationalError,
    psycopg.InterfaceError,
]
OURS = [
    errors.TooManyArguments,
    errors.StatementTooComplex,
    errors.SyntaxError,
    errors.UndefinedTable,
    errors.UniqueViolation,
    errors.RaiseException,
    errors.InFailedSqlTransaction,
    errors.FeatureNotSupported,
]
THEIRS = [errors.NumericValueOutOfRange, errors.UntranslatableCharacter]
TABLE = [(kind, 503, "database_unavailable") for kind in AWAY]
TABLE += [(kind, 500, "internal_error") for kind in OURS]
TABLE += [(kind, 422, "invalid_value") for kind in THEIRS]


def answered(error: Exception) -> tuple[int, str]:
    """Return status and code of the answer of a route that raises this."""
    app = FastAPI()
    problems.install(app)

    @app.get("/")
    async def fail() -> None:
        raise error

    answer = TestClient(app, raise_server_exceptions=False).get("/")
    assert answer.headers["content-type"] == "application/problem+json"
    assert ("retry-after" in answer.headers) == (answer.status_code == 503)
    return answer.status_code, answer.json()["code"]


def through_sqlalchemy(error: psycopg.Error, **more: Any) -> Exception:
    wrapped = DBAPIError.instance("SELECT 1", {}, error, psycopg.Error, **more)
    assert isinstance(wrapped, DBAPIError)
    return wrapped


@pytest.mark.parametrize(("kind", "status", "code"), TABLE)
def test_an_error_of_the_database_is_named_for_what_it_is(kind: Any, status: int, code: str) -> None:
    assert answered(kind("said no")) == answered(kind()) == (status, code)
    assert answered(through_sqlalchemy(kind("said no"))) == (status, code)


def test_a_connection_that_was_lost_or_not_to_be_had_is_an_outage() -> None:
    lost = through_sqlalchemy(errors.InternalError_("gone"), connection_invalidated=True)
    assert answered(lost) == answered(PoolTimeout("none was free")) == (503, "database_unavailable")
