"""Webhooks as their owners meet them: made, shown, changed and deleted, and told of the events they ask for."""

import base64
import hashlib
import hmac
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import psycopg
import pytest

SPEC: dict[str, Any] = {"dataset": {"name": "digits"}, "network": {"name": "mlp"}, "training": {"epochs": 1}}
UNKNOWN = "01a1fc05-96f8-74b8-9c20-173cf12834b1"


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    """A service that may send to this machine, and runs one job at a time."""
    return start_service(webhook_hosts="127.0.0.1,*.lab.org", webhook_private_addresses=True)


def make(http: Any, url: str, *events: str, **more: Any) -> dict[str, Any]:
    answer = http.post("/webhooks", json={"url": url, "events": list(events) or ["job.cancelled"]} | more)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def cancelled_job(http: Any, **changes: Any) -> str:
    """Submit a job for a GPU, which no test machine has, and cancel it."""
    job = http.post("/jobs", json=SPEC | {"resources": {"device": "cuda"}} | changes).json()
    assert http.post(f"/jobs/{job['id']}/cancel").status_code == 202
    return str(job["id"])


def count(service: Any, table: str) -> int:
    return int(service.rows(f"SELECT count(*) AS n FROM {table}")[0]["n"])


def test_a_secret_is_shown_once(member: Any, receiver: Any) -> None:
    answer = member.post("/webhooks", json={"url": receiver.url, "events": ["job.failed", "job.failed"]})
    made = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/webhooks/{made['id']}"
    assert answer.headers["cache-control"] == "no-store"
    assert made["secret"].startswith("whsec_")
    shown = member.get(answer.headers["location"]).json()
    assert shown == {field: value for field, value in made.items() if field != "secret"}
    assert (shown["events"], shown["scope"], shown["enabled"]) == (["job.failed"], "own", True)
    assert member.get("/webhooks").json() == {"items": [shown], "next": None}


def test_an_event_is_told_with_a_signature_that_its_secret_proves(member: Any, receiver: Any) -> None:
    made = make(member, receiver.url, "job.cancelled")
    job_id = cancelled_job(member, name="ŝovelilo", tags=["hw4"])
    (request,) = receiver.wait(1)
    headers, message = request.headers, request.message
    key = base64.b64decode(made["secret"].removeprefix("whsec_"))
    signed = b".".join([headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), request.body])
    expected = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    assert headers["content-type"] == "application/json"
    assert headers["host"] == f"127.0.0.1:{receiver.port}"
    assert not {"authorization", "cookie"} & set(headers)
    assert (message["id"], message["type"]) == (headers["webhook-id"], "job.cancelled")
    job = message["data"]["job"]
    assert (job["id"], job["name"], job["tags"]) == (job_id, "ŝovelilo", ["hw4"])
    assert (job["status"], job["from_status"], job["reason"]) == ("cancelled", "queued", "cancelled_by_user")
    move = member.get(f"/jobs/{job_id}").json()["transitions"][-1]
    assert message["created_at"].replace("+00:00", "Z") == move["at"]


def test_the_events_of_a_job_that_trains_are_told_in_their_order(member: Any, receiver: Any, service: Any) -> None:
    make(member, receiver.url, "job.queued", "job.running", "job.succeeded", "job.failed")
    job_id = member.post("/jobs", json=SPEC).json()["id"]
    service.wait_for_end(job_id)
    requests = receiver.wait(3)
    assert [request.message["type"] for request in requests] == ["job.queued", "job.running", "job.succeeded"]
    assert {request.message["data"]["job"]["id"] for request in requests} == {job_id}


def test_a_batch_is_told_job_by_job(member: Any, receiver: Any) -> None:
    make(member, receiver.url, "job.queued")
    items = member.post("/jobs:batch", json={"jobs": [SPEC | {"resources": {"device": "cuda"}}] * 40}).json()["items"]
    told = [request.message["data"]["job"]["id"] for request in receiver.wait(40)]
    assert sorted(told) == sorted(item["job"]["id"] for item in items)


def test_only_what_was_asked_for_is_told(member: Any, service: Any, start_receiver: Any) -> None:
    tagged, succeeded, mine, lab = (start_receiver() for _ in range(4))
    boris = service.client(service.new_user(f"boris-{uuid4().hex[:8]}"))
    make(member, tagged.url, "job.cancelled", filter={"tag": "hw4"})
    make(member, succeeded.url, "job.succeeded")
    make(member, mine.url, "job.cancelled")
    everything = make(service.http, lab.url, "job.cancelled", scope="lab")
    jobs = [cancelled_job(member), cancelled_job(member, tags=["hw4", "x"]), cancelled_job(boris, tags=["hw4"])]
    assert {message["data"]["job"]["id"] for message in _after(lab, 3)} == set(jobs)
    assert {message["data"]["job"]["id"] for message in _after(mine, 2)} == set(jobs[:2])
    assert [message["data"]["job"]["id"] for message in _after(tagged, 1)] == [jobs[1]]
    assert succeeded.messages == []
    assert service.http.delete(f"/webhooks/{everything['id']}").status_code == 204


def _after(receiver: Any, requests: int) -> list[dict[str, Any]]:
    receiver.wait(requests)
    messages: list[dict[str, Any]] = receiver.messages
    return messages


def test_a_disabled_webhook_is_told_nothing_and_an_enabled_one_again(member: Any, receiver: Any, service: Any) -> None:
    hook = f"/webhooks/{make(member, receiver.url)['id']}"
    assert member.patch(hook, json={"enabled": False}).json()["enabled"] is False
    before = count(service, "deliveries")
    cancelled_job(member)
    assert count(service, "deliveries") == before
    answer = member.post(f"{hook}/test")
    assert (answer.status_code, answer.json()["code"]) == (409, "webhook_disabled")
    assert member.patch(hook, json={"enabled": True, "events": ["job.queued"]}).json()["events"] == ["job.queued"]
    cancelled_job(member)
    assert [request.message["type"] for request in receiver.wait(1)] == ["job.queued"]


def test_what_a_change_leaves_out_stays(member: Any, receiver: Any) -> None:
    made = make(member, receiver.url, description="mine", filter={"tag": "a"})
    hook = f"/webhooks/{made['id']}"
    assert member.patch(hook, json={"filter": {"tag": "b"}}).json()["filter"] == {"tag": "b"}
    assert member.patch(hook, json={"filter": None}).json()["filter"] == {"tag": None}
    assert member.patch(hook, json={"filter": {"tag": "b"}}).json()["filter"] == {"tag": "b"}
    changed = member.patch(hook, json={"description": None, "filter": {}}).json()
    assert changed == {field: value for field, value in made.items() if field != "secret"} | {
        "description": None,
        "filter": {"tag": None},
    }


def test_a_webhook_of_a_disabled_user_is_told_nothing(service: Any, receiver: Any) -> None:
    name = f"dora-{uuid4().hex[:8]}"
    dora = service.client(service.new_user(name, role="admin"))
    make(dora, receiver.url, "job.cancelled", scope="lab")
    cancelled_job(service.http)
    receiver.wait(1)
    before = count(service, "deliveries")
    service.http.patch(f"/users/{name}", json={"role": "member"})
    cancelled_job(service.http)
    service.http.patch(f"/users/{name}", json={"role": "admin", "disabled": True})
    cancelled_job(service.http)
    assert count(service, "deliveries") == before


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"url": "https://evil.org/x"}, 422, "webhook_host_not_allowed"),
        ({"url": "https://lab.org/x"}, 422, "webhook_host_not_allowed"),
        ({"url": "http://169.254.169.254/latest"}, 422, "webhook_host_not_allowed"),
        ({"url": "http://localhost/x"}, 422, "webhook_host_not_allowed"),
        ({"url": "ftp://hooks.lab.org/"}, 422, "invalid_spec"),
        ({"url": "https://user:password@hooks.lab.org/"}, 422, "invalid_spec"),
        ({"url": "https://hooks.lab.org/" + "x" * 2_048}, 422, "invalid_spec"),
        ({"events": []}, 422, "invalid_spec"),
        ({"events": ["job.done"]}, 422, "invalid_spec"),
        ({"scope": "world"}, 422, "invalid_spec"),
        ({"filter": {"user": "anna"}}, 422, "invalid_spec"),
        ({"secret": "mine"}, 422, "invalid_spec"),
        ({"description": "nul\x00"}, 422, "invalid_spec"),
        ({"scope": "lab"}, 403, "admin_only"),
    ],
    ids=str,
)
def test_a_bad_webhook_is_refused_and_leaves_nothing(
    member: Any, service: Any, changes: dict[str, Any], status: int, code: str
) -> None:
    before = count(service, "webhooks"), count(service, "audit")
    answer = member.post("/webhooks", json={"url": "https://hooks.lab.org/x", "events": ["job.failed"]} | changes)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert (count(service, "webhooks"), count(service, "audit")) == before


def test_a_user_has_twenty_webhooks_at_most(member: Any, service: Any) -> None:
    for number in range(20):
        make(member, f"https://hooks.lab.org/{number}")
    before = count(service, "webhooks")
    answer = member.post("/webhooks", json={"url": "https://hooks.lab.org/x", "events": ["job.failed"]})
    assert (answer.status_code, answer.json()["code"]) == (409, "too_many_webhooks")
    assert count(service, "webhooks") == before
    seen: list[str] = []
    after = None
    while len(seen) < 20:
        page = member.get("/webhooks", params={"limit": 7} | ({"after": after} if after else {})).json()
        seen += [webhook["url"] for webhook in page["items"]]
        after = page["next"]
    assert (seen, after) == ([f"https://hooks.lab.org/{number}" for number in reversed(range(20))], None)


@pytest.mark.parametrize("webhook_id", ["foreign", UNKNOWN, "not-a-uuid", "1"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("POST", "/test"),
        ("GET", "/deliveries"),
        ("POST", "/deliveries/1/redeliver"),
    ],
)
def test_anothers_webhook_is_not_found(member: Any, service: Any, webhook_id: str, method: str, path: str) -> None:
    if webhook_id == "foreign":
        webhook_id = make(service.http, "https://hooks.lab.org/admin", "job.failed")["id"]
    before = service.rows("SELECT * FROM webhooks ORDER BY id"), count(service, "audit")
    body = {"json": {"enabled": False}} if method == "PATCH" else {}
    answer = member.request(method, f"/webhooks/{webhook_id}{path}", **body)
    assert (answer.status_code, answer.json()["code"]) == (404, "webhook_not_found")
    assert (service.rows("SELECT * FROM webhooks ORDER BY id"), count(service, "audit")) == before
    if webhook_id not in {UNKNOWN, "not-a-uuid", "1"}:
        assert service.http.delete(f"/webhooks/{webhook_id}").status_code == 204


def test_an_admin_sees_and_changes_everybodys(member: Any, service: Any) -> None:
    made = make(member, "https://hooks.lab.org/x")
    hook = f"/webhooks/{made['id']}"
    assert made["id"] in [webhook["id"] for webhook in service.http.get("/webhooks").json()["items"]]
    assert service.http.patch(hook, json={"enabled": False}).json()["user"] == made["user"]
    assert service.http.delete(hook).status_code == 204
    assert member.get(hook).status_code == 404


def test_every_change_is_in_the_audit(member: Any, service: Any, receiver: Any) -> None:
    hook = f"/webhooks/{make(member, receiver.url)['id']}"
    member.patch(hook, json={"events": ["job.failed"]})
    delivery = member.post(f"{hook}/test").json()
    receiver.wait(1)
    member.post(f"{hook}/deliveries/{delivery['id']}/redeliver")
    member.delete(hook)
    entries = service.rows("SELECT action FROM audit WHERE subject = %s ORDER BY id", hook[1:].replace("s/", ":"))
    verbs = ["create", "update", "test", "redeliver", "delete"]
    assert [entry["action"] for entry in entries] == [f"webhook.{verb}" for verb in verbs]
    secrets = service.rows("SELECT count(*) AS n FROM audit WHERE detail::text LIKE '%%whsec_%%'")
    assert secrets == [{"n": 0}]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"enabled": True}, None),
        ({"events": ["job.failed", "job.cancelled"]}, None),
        ({"filter": {"tag": "hw4"}}, None),
        ({"description": "mine"}, None),
        ({"enabled": True, "filter": {"tag": "hw4"}, "description": "mine"}, None),
        ({}, None),
        ({"enabled": False}, {"enabled": False}),
        ({"events": ["job.failed"]}, {"events": ["job.failed"]}),
        ({"filter": {}}, {"tag": None}),
        ({"enabled": True, "description": None}, {"description": None}),
    ],
    ids=str,
)
def test_a_change_is_in_the_audit_with_what_it_changed_and_none_that_changes_nothing(
    member: Any, service: Any, change: dict[str, Any], told: dict[str, Any] | None
) -> None:
    made = make(
        member, "https://hooks.lab.org/x", "job.cancelled", "job.failed", filter={"tag": "hw4"}, description="mine"
    )
    answer = member.patch(f"/webhooks/{made['id']}", json=change)
    assert answer.status_code == 200, answer.text
    query = "SELECT detail FROM audit WHERE subject = %s AND action = 'webhook.update'"
    entries = service.rows(query, f"webhook:{made['id']}")
    assert [entry["detail"] for entry in entries] == ([] if told is None else [told])


def test_a_webhook_made_again_with_its_key_is_the_same_one(member: Any, service: Any) -> None:
    before = count(service, "webhooks")
    body = {"url": "https://hooks.lab.org/x", "events": ["job.failed"]}
    first, again = (member.post("/webhooks", json=body, headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert again.content == first.content
    assert (again.headers["idempotency-replayed"], again.headers["cache-control"]) == ("true", "no-store")
    assert count(service, "webhooks") == before + 1


@pytest.mark.parametrize("deleted_by", ["its user", "an admin"])
def test_with_a_webhook_its_secret_is_gone_also_from_the_answer_that_was_kept(
    member: Any, service: Any, deleted_by: str
) -> None:
    body = {"url": "https://hooks.lab.org/x", "events": ["job.failed"]}
    made, other = (member.post("/webhooks", json=body, headers={"Idempotency-Key": key}) for key in ("gone", "stays"))
    query = "SELECT key FROM idempotent_answers WHERE position(%s::bytea in body) > 0"
    secrets = [answer.json()["secret"].encode() for answer in (made, other)]
    assert [len(service.rows(query, secret)) for secret in secrets] == [1, 1]
    client = member if deleted_by == "its user" else service.http
    assert client.delete(made.headers["location"]).status_code == 204
    assert [len(service.rows(query, secret)) for secret in secrets] == [0, 1]
    again = member.post("/webhooks", json=body, headers={"Idempotency-Key": "gone"})
    assert (again.status_code, again.headers.get("idempotency-replayed")) == (201, None)
    assert again.json()["id"] != made.json()["id"], "a new one: there is no other to show"


def test_a_change_of_status_does_not_fail_over_a_webhook_that_is_being_deleted(member: Any, service: Any) -> None:
    made = make(member, "https://hooks.lab.org/x", "job.cancelled")
    job_id = member.post("/jobs", json=SPEC | {"resources": {"device": "cuda"}}).json()["id"]
    url = service.stack.database_url.replace("postgresql+psycopg", "postgresql")
    with ThreadPoolExecutor(1) as pool, psycopg.connect(url) as connection:
        connection.execute("DELETE FROM webhooks WHERE id = %s", (made["id"],))  # not committed yet
        cancelling = pool.submit(member.post, f"/jobs/{job_id}/cancel")
        deadline = time.monotonic() + 8
        while not service.rows("SELECT 1 FROM pg_locks WHERE NOT granted"):
            assert time.monotonic() < deadline, "the change of status does not wait"
            time.sleep(0.01)
        connection.commit()
        assert cancelling.result().json()["status"] == "cancelled"
    assert service.rows("SELECT 1 FROM deliveries WHERE job_id = %s", job_id) == []
