"""The query string of a list of jobs: what it may say, and the cursors of its pages."""

import base64
import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from fastapi.exceptions import RequestValidationError
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql

from api.jobs import fields
from api.jobs.filters import MOST_CONDITIONS, conditions
from api.jobs.listing import parameters
from api.jobs.orders import SORTS, Order
from api.jobs.schemas import JobView

JOB = UUID("01a1fc05-96f8-74b8-9c20-173cf1283400")


def asked(*pairs: tuple[str, str]) -> list[tuple[str, dict[str, Any]]]:
    """Return the SQL and the parameters of each condition."""
    dialect: Any = postgresql.dialect
    compiled = [condition.compile(dialect=dialect()) for condition in conditions(pairs)]
    return [(str(part), dict(part.params)) for part in compiled]


def refused(*pairs: tuple[str, str]) -> tuple[str, str]:
    """Return the name and the code with which a query is refused."""
    with pytest.raises(RequestValidationError) as error:
        conditions(pairs)
    (entry,) = error.value.errors()
    assert entry["msg"]
    return entry["loc"][1], entry["type"]


@pytest.mark.parametrize(
    ("pair", "sql"),
    [
        (("best.validation_accuracy>", "0.6"), "scores.best_validation_accuracy >= "),
        (("best.validation_accuracy>=0.6", ""), "scores.best_validation_accuracy >= "),
        (("best.validation_accuracy>0.6", ""), "scores.best_validation_accuracy > "),
        (("best.validation_accuracy<", "0.6"), "scores.best_validation_accuracy <= "),
        (("best.validation_accuracy<0.6", ""), "scores.best_validation_accuracy < "),
        (("best.validation_accuracy", "0.6"), "scores.best_validation_accuracy = "),
        (("test.loss<", "0.6"), "scores.test_loss <= "),
        (("last.epoch>", "0.6"), "scores.last_epoch >= "),
    ],
)
def test_a_score_is_compared_as_it_was_typed(pair: tuple[str, str], sql: str) -> None:
    ((found, values),) = asked(pair)
    assert found.startswith(sql)
    assert list(values.values()) == [0.6]


def test_a_value_with_an_equals_sign_stays_whole() -> None:
    ((_, values),) = asked(("metadata[a]", "b=c"))
    assert list(values.values()) == [{"a": "b=c"}]


def test_what_is_special_to_like_is_searched_as_it_stands() -> None:
    ((_, values),) = asked(("text", r"50%_/\x"))
    assert set(values.values()) == {r"50/%/_//\x"}


def test_tags_are_asked_for_together_and_statuses_instead_of_each_other() -> None:
    found = asked(("tag", "a"), ("status", "failed"), ("tag", "b"), ("status", "running"))
    assert [list(values.values()) for _, values in found] == [[["a", "b"]], [["failed", "running"]]]


@pytest.mark.parametrize(
    ("pair", "refusal"),
    [
        (("foo", "1"), ("foo", "unknown_filter")),
        (("", ""), ("", "unknown_filter")),
        (("Status", "queued"), ("Status", "unknown_filter")),
        (("best.penalty>", "1"), ("best.penalty>", "unknown_filter")),
        (("best_validation_accuracy>", "1"), ("best_validation_accuracy>", "unknown_filter")),
        (("best.validation_accuracy=>", "1"), ("best.validation_accuracy=>", "float_parsing")),
        (("best.validation_accuracy", ""), ("best.validation_accuracy", "not_compared")),
        (("best.validation_accuracy>", "x"), ("best.validation_accuracy>", "float_parsing")),
        (("best.validation_accuracy>", "nan"), ("best.validation_accuracy>", "finite_number")),
        (("best.validation_accuracy>", "1e999"), ("best.validation_accuracy>", "finite_number")),
        (("metadata", "1"), ("metadata", "unknown_filter")),
        (("metadata[]", "1"), ("metadata[]", "string_pattern_mismatch")),
        (("metadata[a b]", "1"), ("metadata[a b]", "string_pattern_mismatch")),
        (("metadata[a]", "\x00"), ("metadata[a]", "unprintable_text")),
        (("status", "done"), ("status", "enum")),
        (("tag", ""), ("tag", "string_too_short")),
        (("user", "x" * 201), ("user", "string_too_long")),
        (("text", "\ud800"), ("text", "string_unicode")),
        (("sweep", "1"), ("sweep", "uuid_parsing")),
        (("created_after", "2026-11-21T08:00:00"), ("created_after", "datetime_format")),
        (("created_before", "soon"), ("created_before", "datetime_format")),
        (("x" * 100, "1"), ("x" * 64 + "...", "unknown_filter")),
    ],
)
def test_a_bad_filter_is_refused_by_its_name(pair: tuple[str, str], refusal: tuple[str, str]) -> None:
    assert refused(pair) == refusal


def test_a_filter_of_one_value_is_refused_twice_and_so_are_too_many() -> None:
    assert refused(("user", "a"), ("user", "b")) == ("user", "repeated")
    assert refused(*[("tag", "a")] * (MOST_CONDITIONS + 1)) == ("query", "too_many_conditions")


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_query_is_understood_or_refused(name: str, value: str) -> None:
    with suppress(RequestValidationError):
        conditions([(name, value)])


@pytest.mark.parametrize("name", SORTS)
def test_a_cursor_is_of_the_order_that_made_it(name: str) -> None:
    order = Order.read(name)
    for value in (None, datetime.now(UTC) if "created" in name else "b" if "." not in name else 3):
        if value is None and "." not in name:
            continue
        cursor = order.cursor(value, str(JOB))
        assert cursor.isascii()
        assert JOB in order.after(cursor).compile().params.values()
        for other in (Order(), Order.read("-name" if name == "name" else "name")):
            with pytest.raises(RequestValidationError) as error:
                other.after(cursor)
            assert error.value.errors()[0]["type"] == "invalid_cursor"


def test_the_cursor_of_the_newest_first_is_the_id_of_a_job() -> None:
    assert Order().cursor(None, str(JOB)) == str(JOB)
    assert list(Order().after(str(JOB)).compile().params.values()) == [JOB]


def encoded(place: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "é",
        "\ud800",
        "=" * 9,
        str(JOB),
        "W" * 5_000,
        encoded([["best.epoch"], 1, str(JOB)]),
        encoded(["best.epoch", 1]),
        encoded(["best.epoch", "x", str(JOB)]),
        encoded(["best.epoch", 2**40, str(JOB)]),
        encoded(["best.epoch", 1, "x"]),
        encoded({"best.epoch": 1}),
        encoded("[" * 1_400),
        base64.urlsafe_b64encode(b"[" * 1_400).decode(),
        base64.urlsafe_b64encode(b'["best.epoch",NaN,"' + str(JOB).encode() + b'"]').decode(),
    ],
)
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(RequestValidationError) as error:
        Order.read("best.epoch").after(cursor)
    assert error.value.errors()[0]["type"] == "invalid_cursor"


@given(st.text(max_size=60))
def test_any_text_is_a_cursor_or_refused(text: str) -> None:
    for order in (Order(), Order.read("-best.validation_accuracy")):
        with suppress(RequestValidationError):
            order.after(text)


def test_every_field_that_is_shown_can_be_asked_for() -> None:
    assert fields.names() == list(JobView.model_fields)
    for name in fields.names():
        assert fields.find(name)
    assert fields.find("best.epoch")
    assert fields.find("spec.training.optimizer.learning_rate")
    for key in ("Course", "a.b-c", "null", "0", "x" * 64):
        assert fields.find(f"spec.metadata.{key}") == [f"spec.metadata.{key}"]
    for unknown in (
        "spec.metadata.",
        "spec.metadata.a b",
        "spec.metadata.a'",
        "spec.metadata.a\n",
        'spec.metadata.a"',
        "spec.metadata." + "x" * 65,
        "",
        "foo",
        "best.",
        "best.penalty",
        "spec.foo",
        "spec.",
        "spec.training.'",
        "spec.name'}",
        "best_epoch",
    ):
        assert not fields.find(unknown), unknown


def test_the_description_names_every_parameter_once() -> None:
    names = [parameter["name"] for parameter in parameters()]
    assert len(set(names)) == len(names)
    assert {"status", "metadata", "best.validation_accuracy", "sort", "fields", "after", "limit"} <= set(names)


def test_every_threshold_of_the_description_is_understood_as_a_generated_client_sends_it() -> None:
    (thresholds,) = (parameter["schema"] for parameter in parameters() if parameter["name"] == "thresholds")
    for name in thresholds["propertyNames"]["enum"]:
        ((sql, values),) = asked((name, "0.6"))
        assert (">= " if name.endswith(">") else "<= ") in sql
        assert list(values.values()) == [0.6]
