"""Idempotency keys: a request that is sent again changes nothing more, whenever the first one was cut off."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import httpx2
import psycopg
import pytest

from harness.jobs import DIGITS_MLP

HOLD = 5_417_120_011  # the advisory lock that holds up a commit


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    """A service without workers, whose commit of a job named `held` waits for a lock, and of one `refused` fails."""
    service = start_service(workers=0, webhook_hosts="*.lab.org")
    service.rows(
        f"CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN PERFORM pg_advisory_xact_lock({HOLD}); RETURN NULL; END $$;"
        "CREATE CONSTRAINT TRIGGER holding AFTER INSERT ON jobs DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW WHEN (NEW.name = 'held') EXECUTE FUNCTION hold();"
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$;"
        "CREATE CONSTRAINT TRIGGER refusing AFTER INSERT ON jobs DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW WHEN (NEW.name = 'refused') EXECUTE FUNCTION refuse();"
    )
    return service


@pytest.fixture
def key() -> str:
    return str(uuid4())


def jobs(service: Any) -> int:
    return int(service.rows("SELECT count(*) AS n FROM jobs")[0]["n"])


def submit(http: httpx2.Client, key: str, path: str = "/jobs", **changes: Any) -> httpx2.Response:
    return http.post(path, json=DIGITS_MLP | changes, headers={"Idempotency-Key": key})


def stored(service: Any, key: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = service.rows("SELECT * FROM idempotent_answers WHERE key = %s", key)
    return rows


@contextmanager
def commits_held(service: Any) -> Iterator[Callable[[], None]]:
    """Hold up the commits of jobs named `held`; give a function that returns when one is waiting."""

    def wait() -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if service.rows("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):
                return
            time.sleep(0.01)
        raise AssertionError("no commit is waiting")

    url = service.stack.database_url.replace("postgresql+psycopg", "postgresql")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (HOLD,))
        yield wait


def test_the_same_request_again_gets_the_first_answer_and_changes_nothing(service: Any, key: str) -> None:
    before = jobs(service)
    first = submit(service.http, key, name="ŝovelilo")
    again = submit(service.http, key, name="ŝovelilo")
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert again.headers["location"] == first.headers["location"] == f"/jobs/{first.json()['id']}"
    assert again.headers["content-type"] == first.headers["content-type"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert jobs(service) == before + 1
    entries = service.rows("SELECT 1 FROM audit WHERE subject = %s", f"job:{first.json()['id']}")
    assert len(entries) == 1, "a replay changes nothing, and leaves no trace of a change"


def test_without_a_key_the_same_request_makes_two_jobs(service: Any) -> None:
    before = jobs(service)
    assert service.submit(DIGITS_MLP) != service.submit(DIGITS_MLP)
    assert jobs(service) == before + 2


def test_a_key_that_was_sent_with_another_body_is_refused(service: Any, key: str) -> None:
    submit(service.http, key)
    before = jobs(service)
    answer = submit(service.http, key, name="another")
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert answer.headers["content-type"] == "application/problem+json"
    assert jobs(service) == before


def test_a_key_that_was_sent_to_another_path_is_refused(service: Any, key: str) -> None:
    job_id = submit(service.http, key).json()["id"]
    answer = service.http.post(f"/jobs/{job_id}/cancel", headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert service.job(job_id)["status"] == "queued"


def test_a_cancel_with_a_key_is_answered_again_as_the_first_time(service: Any, key: str) -> None:
    job_id = service.submit(DIGITS_MLP)
    first, again = (service.http.post(f"/jobs/{job_id}/cancel", headers={"Idempotency-Key": key}) for _ in range(2))
    assert (first.status_code, first.json()["status"]) == (202, "cancelled")
    assert (again.status_code, again.content) == (202, first.content)
    assert again.headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize("path", ["/jobs", "/sweeps"])
def test_what_is_sent_to_a_cancel_that_takes_no_body_is_passed_over_with_a_key_as_without(
    service: Any, key: str, path: str
) -> None:
    grid = {"kind": "grid", "values": {"training.seed": [1]}}
    body = DIGITS_MLP if path == "/jobs" else {"spec": DIGITS_MLP, "parameters": grid, "objective": "validation_loss"}
    for headers in ({}, {"Idempotency-Key": key}):
        made = service.http.post(path, json=body).json()["id"]
        answer = service.http.post(f"{path}/{made}/cancel", data={"sure": "yes"}, headers=headers)
        assert answer.status_code == 202, answer.text
    assert len(stored(service, key)) == 1


@pytest.mark.parametrize("bad", [b"", b"x" * 256, b"tab\tin it", b"caf\xe9", b"\x7f"])
def test_a_key_that_is_none_is_refused_by_the_headers_name(service: Any, bad: bytes) -> None:
    before = jobs(service)
    answer = service.http.post("/jobs", json=DIGITS_MLP, headers=[(b"Idempotency-Key", bad)])
    assert answer.status_code in {400, 422}
    if answer.status_code == 422:  # else the server itself could not read the header
        assert [error["loc"] for error in answer.json()["errors"]] == ["Idempotency-Key"]
    assert jobs(service) == before


def test_two_keys_in_one_request_are_refused(service: Any) -> None:
    before = jobs(service)
    answer = service.http.post("/jobs", json=DIGITS_MLP, headers=[("Idempotency-Key", "a"), ("Idempotency-Key", "b")])
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert [(error["loc"], error["code"]) for error in answer.json()["errors"]] == [("Idempotency-Key", "repeated")]
    assert jobs(service) == before


@pytest.mark.parametrize("length", [1, 255])
def test_a_key_may_have_1_to_255_characters(service: Any, length: int) -> None:
    key = "~" * length
    first = submit(service.http, key, name=f"length {length}")
    assert submit(service.http, key, name=f"length {length}").content == first.content


def test_a_key_belongs_to_its_user_whatever_the_token(service: Any, key: str) -> None:
    mine = service.client(service.new_user("anna"))
    answer = mine.post("/tokens", json={"name": "another"})
    also_mine, theirs = service.client(answer.json()["token"]), service.client(service.new_user("boris"))
    before = jobs(service)
    first, again, other = submit(mine, key), submit(also_mine, key), submit(theirs, key)
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    assert other.status_code == 201
    assert other.json()["id"] != first.json()["id"]
    assert jobs(service) == before + 2


def test_a_key_that_was_sent_with_other_rights_is_refused_and_says_so(service: Any, key: str) -> None:
    both = service.client(service.new_user("dora"))
    writer = service.client(both.post("/tokens", json={"name": "w", "scopes": ["write"]}).json()["token"])
    assert submit(both, key).status_code == 201
    before = jobs(service)
    answer = submit(writer, key)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert "other rights" in answer.json()["detail"]
    assert jobs(service) == before


def test_a_token_that_may_not_write_gets_no_stored_answer(service: Any, key: str) -> None:
    writer = service.client(service.new_user("carla"))
    reader = service.client(writer.post("/tokens", json={"name": "r", "scopes": ["read"]}).json()["token"])
    assert submit(writer, key).status_code == 201
    assert submit(reader, key).status_code == 403


@pytest.mark.parametrize(
    ("role", "first", "later"),
    [("member", ["read", "write"], ["write"]), ("admin", ["read", "write", "admin"], ["read", "write"])],
)
def test_a_token_of_fewer_scopes_gets_no_stored_answer(
    service: Any, key: str, role: str, first: list[str], later: list[str]
) -> None:
    wide = service.client(service.new_user(f"narrowed-{role}", role=role))
    tokens = [wide.post("/tokens", json={"name": "t", "scopes": scopes}).json()["token"] for scopes in (first, later)]
    many, few = map(service.client, tokens)
    answer = submit(many, key)
    before, kept = jobs(service), stored(service, key)
    refused = submit(few, key)
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")
    assert answer.json()["id"] not in refused.text
    assert (jobs(service), stored(service, key)) == (before, kept)
    assert submit(many, key).content == answer.content, "whoever has the rights of the first request is answered again"


def test_who_is_no_longer_an_admin_gets_no_answer_that_only_admins_got(service: Any, key: str) -> None:
    deputy = service.client(service.new_user("deputy", role="admin"))
    body = {"url": "https://hooks.lab.org/x", "events": ["job.failed"], "scope": "lab"}
    made = deputy.post("/webhooks", json=body, headers={"Idempotency-Key": key})
    assert made.status_code == 201
    before = stored(service, key), service.rows("SELECT count(*) AS n FROM webhooks")
    assert service.http.patch("/users/deputy", json={"role": "member"}).is_success
    refused = deputy.post("/webhooks", json=body, headers={"Idempotency-Key": key})
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")
    assert made.json()["secret"] not in refused.text
    assert (stored(service, key), service.rows("SELECT count(*) AS n FROM webhooks")) == before
    assert service.http.patch("/users/deputy", json={"role": "admin"}).is_success
    again = deputy.post("/webhooks", json=body, headers={"Idempotency-Key": key})
    assert (again.status_code, again.content) == (201, made.content)


def test_a_request_that_was_refused_may_be_sent_again_with_its_key(service: Any, key: str) -> None:
    refused = submit(service.http, key, training={"epochs": 0})
    assert refused.status_code == 422
    assert stored(service, key) == []
    assert submit(service.http, key).status_code == 201


def test_a_commit_that_fails_leaves_no_answer_behind(service: Any, key: str) -> None:
    before = jobs(service)
    assert submit(service.http, key, name="refused").status_code >= 500
    assert (jobs(service), stored(service, key)) == (before, [])


def test_twenty_requests_at_once_make_one_job(service: Any, key: str) -> None:
    before = jobs(service)
    with ThreadPoolExecutor(20) as pool:
        answers = [future.result() for future in [pool.submit(submit, service.http, key) for _ in range(20)]]
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} <= {"idempotency_in_flight"}
    made = [answer for answer in answers if answer.status_code == 201]
    assert len({answer.content for answer in made}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in made) == 1
    assert jobs(service) == before + 1
    assert submit(service.http, key).content == made[0].content


def test_while_the_first_is_being_answered_the_second_is_told_to_wait(service: Any, key: str) -> None:
    before = jobs(service)
    with ThreadPoolExecutor(1) as pool:
        with commits_held(service) as wait_for_commit:
            first = pool.submit(submit, service.http, key, name="held")
            wait_for_commit()
            second = submit(service.http, key, name="held")
            assert submit(service.http, str(uuid4())).status_code == 201, "another key does not wait"
        assert first.result().status_code == 201
    assert (second.status_code, second.json()["code"]) == (409, "idempotency_in_flight")
    assert int(second.headers["retry-after"]) >= 1
    assert submit(service.http, key, name="held").content == first.result().content
    assert jobs(service) == before + 2


@contextmanager
def api_killed_at_its_commit(service: Any, key: str) -> Iterator[None]:
    """Kill the API while it commits a job that nobody will hear of; the commit goes on at the end."""
    with ThreadPoolExecutor(1) as pool, commits_held(service) as wait_for_commit:
        cut_off = pool.submit(submit, service.http, key, name="held")
        wait_for_commit()
        service.stack.kill_child("api")
        with pytest.raises(httpx2.TransportError):
            cut_off.result()
        yield


def test_an_api_killed_between_commit_and_answer_gives_that_answer_when_asked_again(service: Any, key: str) -> None:
    before = jobs(service)
    with api_killed_at_its_commit(service, key):
        assert jobs(service) == before
    deadline = time.monotonic() + 10
    while jobs(service) == before and time.monotonic() < deadline:  # Postgres goes on with the commit by itself
        time.sleep(0.02)
    service.stack.start_child("api")
    service.stack.wait_until_ready()
    answer = submit(service.http, key, name="held")
    assert (answer.status_code, answer.headers["idempotency-replayed"]) == (201, "true")
    assert answer.json()["id"] == answer.headers["location"].removeprefix("/jobs/")
    assert service.job(answer.json()["id"])["name"] == "held"
    assert jobs(service) == before + 1


def test_an_api_killed_before_the_commit_has_done_nothing_and_blocks_no_key(service: Any, key: str) -> None:
    before = jobs(service)
    with api_killed_at_its_commit(service, key):
        service.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        )  # the transaction ends without its commit
    service.stack.start_child("api")
    service.stack.wait_until_ready()
    assert jobs(service) == before
    answer = submit(service.http, key, name="held")
    assert answer.status_code == 201
    assert "idempotency-replayed" not in answer.headers
    assert jobs(service) == before + 1


def test_after_a_day_a_key_is_as_new(service: Any, key: str) -> None:
    first = submit(service.http, key)
    age = "UPDATE idempotent_answers SET created_at = created_at - %s::interval WHERE key = %s"
    service.rows(age, "23 hours 59 minutes", key)
    assert submit(service.http, key).content == first.content
    service.rows(age, "1 minute", key)
    later = submit(service.http, key, name="another")
    assert later.status_code == 201
    assert later.json()["id"] != first.json()["id"]
    assert submit(service.http, key, name="another").content == later.content


def test_answers_older_than_a_day_are_deleted_and_no_others(service: Any, tidy: Any) -> None:
    old, young = str(uuid4()), str(uuid4())
    for key in (old, young):
        submit(service.http, key)
    service.rows("UPDATE idempotent_answers SET created_at = created_at - interval '25 hours' WHERE key = %s", old)
    tidy(service)
    assert (len(stored(service, old)), len(stored(service, young))) == (0, 1)


def test_the_header_is_documented_where_it_works(service: Any) -> None:
    paths = service.http.get("/openapi.json").json()["paths"]
    for path in ("/jobs", "/jobs:batch", "/jobs/{job_id}/cancel", "/sweeps", "/webhooks"):
        operation = paths[path]["post"]
        assert "Idempotency-Key" in [parameter["name"] for parameter in operation["parameters"]], path
        assert "409" in operation["responses"], path
