"""The schema's history on a real Postgres: up, down, up again, and no drift from the tables in the code."""

from typing import Any

import pytest
from alembic import command
from sqlalchemy import inspect

from harness.jobs import DIGITS_MLP
from migrations import config
from models.job import Status

BEFORE_PEOPLE = "b7d2e9a41c63"


@pytest.fixture
def database(start_service: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A migrated database of its own, named in the environment as Alembic reads it."""
    service = start_service(workers=0)
    monkeypatch.setenv("DATABASE_URL", service.stack.database_url)
    return service


def tables(service: Any) -> set[str]:
    return set(inspect(service.engine).get_table_names())


def test_migrations_run_up_and_down_and_up_again_without_drift(database: Any) -> None:
    whole = tables(database)
    command.downgrade(config(), "base")
    assert tables(database) == {"alembic_version"}
    command.upgrade(config(), "head")
    assert tables(database) == whole
    command.check(config())  # raises where the tables in the code differ


def test_jobs_from_before_there_were_users_are_the_first_admins(database: Any) -> None:
    job = database.submit(DIGITS_MLP)
    command.downgrade(config(), BEFORE_PEOPLE)
    assert "users" not in tables(database)
    command.upgrade(config(), "head")
    owners = database.rows("SELECT jobs.id::text, users.name, users.role FROM jobs JOIN users ON users.id = user_id")
    assert owners == [{"id": job, "name": "admin", "role": "admin"}]
    # The next start gives that admin a token, as any first start does.
    database.stack.run_module("api.access.bootstrap", "--file", str(database.data_dir / "admin-token"))
    with database.stack.client(timeout=10) as http:
        assert http.get(f"/jobs/{job}").json()["user"] == "admin"


def test_without_jobs_the_migrations_make_no_user(database: Any) -> None:
    command.downgrade(config(), BEFORE_PEOPLE)
    command.upgrade(config(), "head")
    assert database.rows("SELECT count(*) AS n FROM users") == [{"n": 0}]


def test_the_api_is_not_ready_on_a_schema_that_it_does_not_know(database: Any) -> None:
    database.rows("UPDATE alembic_version SET version_num = 'older'")
    answer = database.http.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "not_migrated")
    database.rows("ALTER TABLE alembic_version RENAME TO elsewhere")
    try:
        answer = database.http.get("/readyz")
        assert (answer.status_code, answer.json()["code"]) == (503, "not_migrated"), "a database without any of it"
    finally:
        database.rows("ALTER TABLE elsewhere RENAME TO alembic_version")


def test_a_schema_of_a_later_version_is_left_as_it_is(database: Any) -> None:
    database.rows("UPDATE alembic_version SET version_num = 'later'")
    migrations = database.start_migrations()
    said, _ = migrations.communicate(timeout=60)
    assert (migrations.returncode, said.count("\n")) == (0, 1), said
    assert "of a later version" in said
    assert database.rows("SELECT version_num FROM alembic_version") == [{"version_num": "later"}]


def test_every_status_of_the_code_is_allowed_by_the_database_and_no_other(database: Any) -> None:
    # alembic check does not see a changed CHECK constraint.
    database.http.post("/jobs", json=DIGITS_MLP)
    definition = database.rows(
        "SELECT pg_get_constraintdef(oid) AS text FROM pg_constraint WHERE conname = 'ck_jobs_status'"
    )[0]["text"]
    assert {part for part in definition.split("'") if part.isidentifier() and part.islower()} >= {
        status.value for status in Status
    }
    assert definition.count("::text") == len(Status), definition
