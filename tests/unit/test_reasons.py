"""The table of reasons: it has every one that the code gives, and decides what is tried again; `retry` in a spec."""

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import worker
from models import errors
from models.job import Job, Status
from models.reasons import FAILURES, REASONS, RETRIED, table
from models.spec import JobSpec, RetrySpec
from worker.failures import _REASONS, failure_of

ROOT = Path(__file__).parents[2]
ASKED: dict[str, Any] = {"dataset": {"name": "digits"}, "network": {"name": "mlp"}, "training": {"epochs": 3}}


def trees(*files: Path) -> Iterator[ast.Module]:
    """Yield the worker's source files, and these."""
    for file in [*(ROOT / "worker").rglob("*.py"), *files]:
        yield ast.parse(file.read_text("utf-8"))


def raised() -> set[str]:
    """Return the names of what the worker raises."""
    calls = (node.exc for tree in trees() for node in ast.walk(tree) if isinstance(node, ast.Raise))
    return {call.func.id for call in calls if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)}


def given() -> set[str]:
    """Return the reasons that the code gives literally: as a `reason`, or first to `fail` and `lose_attempt`."""
    found = set()
    for tree in trees(ROOT / "models/job.py"):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                first = node.args[:1] if getattr(node.func, "attr", "") in ("fail", "lose_attempt") else []
                values = [keyword.value for keyword in node.keywords if keyword.arg == "reason"] + first
                found |= {value.value for value in values if isinstance(value, ast.Constant)}
                found |= {value.id for value in values if isinstance(value, ast.Name) and value.id.isupper()}
    return {str(name) for name in found if name is not None}


def test_every_error_that_ends_a_training_is_in_the_table() -> None:
    for module in pkgutil.walk_packages(worker.__path__, "worker."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    codes = {kind.__name__: kind.code for kind in all_errors(errors.TrainyardError)}
    # What a runner, or the preparation of one, can raise; the others never get as far as a job's reason.
    apart = {"AttemptSuperseded", "InvalidSpec"}
    found = {codes[name] for name in raised() - apart if name in codes}
    assert len(found) > 5
    assert found <= set(FAILURES)
    assert set(_REASONS.values()) <= set(FAILURES)
    assert failure_of(KeyError("x")).reason in FAILURES


def all_errors(kind: type[errors.TrainyardError]) -> set[type[errors.TrainyardError]]:
    return {kind}.union(*map(all_errors, kind.__subclasses__()))


def test_every_reason_that_the_code_names_is_in_the_table() -> None:
    found = given()
    assert {"WORKER_LOST", "CANCELLED_BY_USER", "TIME_LIMIT"} <= found
    assert {name.lower() for name in found} <= set(REASONS)
    sql = (ROOT / "migrations/versions/2026_11_21_dependencies.py").read_text()
    assert "'dependency_failed'" in sql
    assert "dependency_failed" in REASONS


def test_what_the_job_has_no_part_in_is_tried_again_and_nothing_else() -> None:
    assert RETRIED == ("worker_lost", "runner_died", "data_cache_damaged")
    assert not {"cancelled_by_user", "preempted", "dependency_failed"} & set(FAILURES)


def test_the_page_holds_the_table() -> None:
    page = (ROOT / "docs/operations.md").read_text("utf-8")
    assert table() in page, "replace the table with what `python -m models.reasons` prints"


def job_with(retry: Any, *, retries: int = 0, status: Status = Status.RUNNING) -> Job:
    """Return a running job that no database knows."""
    spec = JobSpec.model_validate(ASKED | ({} if retry is None else {"retry": retry})).resolved().as_json()
    return Job(id=None, status=status.value, spec=spec, epochs=3, attempt=4, retries=retries, timed_since=1)


@pytest.mark.parametrize("reason", FAILURES)
@pytest.mark.parametrize("retry", [None, {}, {"limit": None, "on": None}])
def test_by_default_the_table_decides(reason: str, retry: Any) -> None:
    job = job_with(retry)
    job.lose_attempt(reason, "So it was.", retry_limit=3)
    assert (job.status, job.retries) == (("queued", 1) if REASONS[reason].retried else ("failed", 0))
    assert job.reason == reason


@pytest.mark.parametrize("reason", FAILURES)
def test_what_the_spec_names_is_tried_again_and_nothing_else(reason: str) -> None:
    for on, retries in (([reason], 1), ([name for name in FAILURES if name != reason], 0), ([], 0)):
        job = job_with({"on": on})
        job.lose_attempt(reason, "So it was.", retry_limit=3)
        assert (job.status, job.retries) == ("queued" if retries else "failed", retries)


@pytest.mark.parametrize(("limit", "services"), [(0, 3), (2, 0), (2, 3), (10, 3), (None, 3), (None, 0)])
def test_the_specs_limit_goes_before_the_services(limit: int | None, services: int) -> None:
    most = services if limit is None else limit
    if most > 0:
        job = job_with({"limit": limit}, retries=most - 1)
        job.lose_attempt("runner_died", "It died.", retry_limit=services)
        assert (job.status, job.retries) == ("queued", most)
    job = job_with({"limit": limit}, retries=most)
    job.lose_attempt("runner_died", "It died.", retry_limit=services)
    assert (job.status, job.retries) == ("failed", most)


def test_a_spec_from_before_there_were_retries_is_as_one_that_says_nothing() -> None:
    job = job_with(None)
    job.spec = {name: value for name, value in job.spec.items() if name != "retry"}
    job.lose_attempt("runner_died", "It died.", retry_limit=3)
    assert job.status == "queued"


def test_a_time_limit_that_is_tried_again_starts_anew() -> None:
    job = job_with({"on": ["time_limit"]})
    job.lose_attempt("time_limit", "It took too long.", retry_limit=3)
    assert (job.status, job.timed_since) == ("queued", 5)
    job = job_with({"on": ["runner_died"]})
    job.lose_attempt("runner_died", "It died.", retry_limit=3)
    assert (job.status, job.timed_since) == ("queued", 1), "the clock of the first attempt goes on"


@pytest.mark.parametrize(("reason", "after"), [("runner_died", "paused"), ("invalid_data", "failed")])
def test_a_job_that_was_to_pause_does_so_after_a_failure_that_is_tried_again(reason: str, after: str) -> None:
    job = job_with(None, status=Status.PAUSING)
    job.lose_attempt(reason, "So it was.", retry_limit=0)
    assert (job.status, job.reason, job.retries) == (after, reason, 0)


@pytest.mark.parametrize(
    ("retry", "loc", "code"),
    [
        ({"limit": -1}, "limit", "greater_than_equal"),
        ({"limit": 11}, "limit", "less_than_equal"),
        ({"limit": True}, "limit", "int_type"),
        ({"limit": 1.0}, "limit", "int_type"),
        ({"on": ["preempted"]}, "on", "unknown_reason"),
        ({"on": "runner_died"}, "on", "list_type"),
        ({"on": ["runner_died"] * 99}, "on", "too_long"),
        ({"times": 3}, "times", "extra_forbidden"),
    ],
)
def test_a_bad_retry_names_its_field(retry: Any, loc: str, code: str) -> None:
    with pytest.raises(ValidationError) as refused:
        RetrySpec.model_validate(retry)
    (error,) = refused.value.errors()
    assert (error["loc"][0], error["type"]) == (loc, code)


def test_reasons_are_kept_once_each_in_the_order_of_the_table() -> None:
    assert RetrySpec.model_validate({"on": ["time_limit", "runner_died", "time_limit"]}).on == [
        "runner_died",
        "time_limit",
    ]
