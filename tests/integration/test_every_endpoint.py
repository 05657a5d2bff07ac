"""Every operation of the API: without a token, with one that may not, with a bad id, with an over-long body."""

import re
from functools import cache
from typing import Any
from uuid import uuid4

import pytest

from api.codes import CODES
from harness.jobs import DIGITS_MLP

pytestmark = pytest.mark.usefixtures("adas", "nothing_changes")

SWEEP = {
    "spec": DIGITS_MLP,
    "parameters": {"kind": "grid", "values": {"training.seed": [1, 2]}},
    "objective": "validation_loss",
}
WEBHOOK = {"url": "https://hooks.example.org/", "events": ["job.failed"]}
REQUEST_ID = {"X-Request-ID": "every-endpoint"}
LONGEST_BODY = 4 * 1_048_576


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    """A service without workers and scheduler: nothing is to change by itself."""
    service = start_service(workers=0, rate_limit_burst=100_000, webhook_hosts="hooks.example.org")
    service.stack.kill_child("scheduler")
    return service


@pytest.fixture(scope="module")
def tokens(service: Any) -> Any:
    """Tokens: Ada's, who has something of everything, those of another member, and such as lack a scope."""
    found = {"ada": service.new_user("ada"), "bob": service.new_user("bob")}
    for name, scopes in {"reader": ["read"], "writer": ["write"]}.items():
        answer = service.http.post("/tokens", json={"name": name, "user": "bob", "scopes": scopes})
        found[name] = answer.json()["token"]
    return found


@pytest.fixture(scope="module")
def adas(service: Any, tokens: Any) -> Any:
    """What Ada has, by the names of the parameters in paths."""
    http = service.client(tokens["ada"])
    job, sweep, webhook = (
        http.post(path, json=body).json()["id"]
        for path, body in {"/jobs": DIGITS_MLP, "/sweeps": SWEEP, "/webhooks": WEBHOOK}.items()
    )
    return {
        "job_id": job,
        "sweep_id": sweep,
        "webhook_id": webhook,
        "delivery_id": http.post(f"/webhooks/{webhook}/test").json()["id"],
        "token_id": tokens["ada"].split("_")[1],
        "worker_id": _add_worker(service),
        "name": "ada",
    }


def _add_worker(service: Any) -> str:
    """Return the id of a worker that is no process."""
    load = '{"cpu_percent": 1.5, "memory_used_bytes": 1, "gpus": []}'
    (row,) = service.rows(
        "INSERT INTO workers (id, name, instance, host, version, queues, slots, cores, processor, memory_bytes, gpus,"
        " load, lease_seconds) VALUES (gen_random_uuid(), 'lab-1', '', 'lab-1', '0', '{default}', 1, 1, '', 2, '[]',"
        " %s, 30) RETURNING id",
        load,
    )
    return str(row["id"])


@pytest.fixture(scope="module")
def send(service: Any, adas: Any) -> Any:
    """Send an operation with its own example as body, and with Ada's ids unless others are given."""
    client_of = cache(lambda token: service.anonymous() if token is None else service.client(token))

    def sent(operation: Any, token: str | None, content: bytes | None = None, **ids: str) -> Any:
        examples = operation.described.get("requestBody", {}).get("content", {}).get("application/json", {})
        body = next((example["value"] for example in examples.get("examples", {}).values()), None)
        arguments: dict[str, Any] = {"json": body} if content is None else {"content": content}
        if operation.name == "compare_jobs":
            arguments["params"] = {"job": [ids.get("job_id", adas["job_id"]), str(uuid4())]}
        with client_of(token).stream(
            operation.method, _path(operation, adas | ids), headers=REQUEST_ID, **arguments
        ) as answer:
            if answer.is_error:
                answer.read()
                code = answer.json()["code"]
                assert operation.documents(answer.status_code, code) or code == "not_found", "it must be described"
            return answer

    return sent


def _path(operation: Any, ids: dict[str, Any]) -> str:
    public = {"recipes": "lenet", "datasets": "digits"}.get(operation.path.split("/")[1])
    named = ids | {"name": public} if public and ids["name"] == "ada" else ids
    return str(operation.path.format(**named))


def require_problem(answer: Any, status: int, *codes: str) -> None:
    """Require a problem with this status and one of these codes."""
    assert answer.status_code == status, answer.text
    problem = answer.json()
    assert problem["code"] in codes
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == REQUEST_ID["X-Request-ID"]
    assert {"type", "title", "status", "detail", "code"} <= set(problem)


@pytest.mark.parametrize("token", [None, "ty_", f"ty_{'0' * 32}_{'0' * 64}"])
def test_without_a_token_that_works_there_is_no_answer(operation: Any, send: Any, token: str | None) -> None:
    answer = send(operation, token)
    if not operation.needs_token:
        assert answer.status_code == 200
        return
    require_problem(answer, 401, "unauthenticated")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert "ratelimit-limit" not in answer.headers


def test_a_token_without_the_scope_is_refused(operation: Any, send: Any, tokens: Any) -> None:
    lacking = {"read": "writer", "write": "reader", "admin": "bob"}
    if operation.scope is None:
        assert send(operation, tokens["reader"]).status_code == 200
        return
    code = "admin_only" if operation.scope == "admin" else "insufficient_scope"
    answer = send(operation, tokens[lacking[operation.scope]])
    require_problem(answer, 403, code)
    assert "ratelimit-remaining" in answer.headers


def test_what_belongs_to_another_member_is_not_changed_and_secrets_are_not_seen(
    operation: Any, send: Any, tokens: Any
) -> None:
    owned = {"job_id", "sweep_id", "webhook_id", "token_id"} & {
        parameter["name"] for parameter in operation.described.get("parameters", ()) if parameter["in"] == "path"
    }
    if not owned or operation.name == "clone_job":  # whoever may read a job may submit the same
        return
    answer = send(operation, tokens["bob"])
    if owned & {"webhook_id", "token_id"}:
        require_problem(answer, 404, "webhook_not_found", "token_not_found")
    elif operation.scope == "write":
        require_problem(answer, 403, "not_yours")
    else:
        assert answer.status_code in {200, 409}, "the lab's jobs and sweeps are read by everybody in it"


BAD_IDS = ["no-id", "..%2f..%2fetc", "%00", "%ff", "{0}", "0", "9" * 30, "x" * 5_000, "%F0%9F%92%A9", str(uuid4())]


# A queue exists by being named: whatever can be a name is one.
QUEUE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def test_an_id_of_nothing_is_not_found(operation: Any, send: Any, service: Any) -> None:
    parameters = operation.described.get("parameters", ())
    for name in (parameter["name"] for parameter in parameters if parameter["in"] == "path"):
        is_queue = operation.name in {"pause_queue", "resume_queue"}
        for bad in (bad for bad in BAD_IDS if not (is_queue and QUEUE_NAME.fullmatch(bad))):
            answer = send(operation, service.stack.admin_token, **{name: bad})
            # A slash makes another path, behind which there is nothing at all.
            codes = ["not_found"] if "%2f" in bad else [code for code in CODES if operation.documents(404, code)]
            require_problem(answer, 404, *codes)


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "a"}], ids=["no key", "a key"])
def test_what_is_sent_to_a_post_that_takes_no_body_is_passed_over(
    operation: Any, service: Any, adas: Any, tokens: Any, headers: dict[str, str]
) -> None:
    if operation.method != "POST" or "requestBody" in operation.described:
        return
    # Of Bob, who may change none of it: his rights are looked at after the body.
    answer = service.client(tokens["bob"]).post(_path(operation, adas), data={"sure": "yes"}, headers=headers)
    refused = {"admin_only"} if operation.scope == "admin" else {"not_yours", "webhook_not_found"}
    assert answer.json()["code"] in refused


def test_head_has_the_status_and_the_headers_of_get_and_no_body(
    operation: Any, service: Any, adas: Any, tokens: Any
) -> None:
    if operation.method != "GET":
        return
    http, path = service.client(tokens["ada"]), _path(operation, adas)
    head = http.head(path)
    assert head.content == b""
    if operation.path.endswith("/stream"):
        assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        return
    answer = http.get(path)
    assert head.status_code == answer.status_code
    for name in ("content-type", "etag", "content-security-policy", "ratelimit-limit", "cache-control"):
        assert head.headers.get(name) == answer.headers.get(name)
    assert int(head.headers["content-length"]) > 0


def test_an_over_long_body_is_refused_whether_or_not_one_is_wanted(operation: Any, send: Any, service: Any) -> None:
    if not operation.needs_token:
        return
    answer = send(operation, service.stack.admin_token, content=b" " * (LONGEST_BODY + 1))
    require_problem(answer, 413, "body_too_large")
