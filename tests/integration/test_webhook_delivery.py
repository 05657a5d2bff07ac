"""Deliveries: at least once and in order, through failures of the receiver and of our own."""

import signal
import threading
import time
from typing import Any

import pytest

from api.webhooks import outbox

GPU_SPEC: dict[str, Any] = {  # waits for a GPU, which no test machine has
    "dataset": {"name": "digits"},
    "network": {"name": "mlp"},
    "resources": {"device": "cuda"},
}
IN_TRANSACTION = "SELECT pid, xact_start FROM pg_stat_activity WHERE state LIKE 'idle in transaction%%'"


@pytest.fixture(scope="module")
def service(start_service: Any, fast_webhooks: dict[str, Any]) -> Any:
    """A service without workers."""
    return start_service(workers=0, **fast_webhooks)


def submit(http: Any, **changes: Any) -> str:
    return str(http.post("/jobs", json=GPU_SPEC | changes).json()["id"])


def test_a_ping_is_delivered_and_logged(hook_to: Any, receiver: Any, answer_with: Any) -> None:
    receiver.answers = [answer_with(200, b"thank\x00you")]
    hook = hook_to(receiver.url)
    asked = hook.ping()
    assert (asked["status"], asked["attempts"]) == ("pending", [])
    (delivery,) = hook.settled()
    (attempt,) = delivery["attempts"]
    assert (delivery["id"], delivery["status"], delivery["event"]) == (asked["id"], "delivered", "webhook.ping")
    assert (delivery["next_attempt_at"], delivery["job_id"]) == (None, None)
    assert (attempt["number"], attempt["status_code"], attempt["error"]) == (1, 200, None)
    assert attempt["answer"] == "thank you"
    assert attempt["seconds"] > 0
    (request,) = receiver.requests
    assert request.message["data"] == {"webhook": {"id": hook.path.removeprefix("/webhooks/")}}
    assert delivery["message_id"] == request.message["id"]


def test_what_failed_is_sent_again_as_the_same_message(
    hook_to: Any, receiver: Any, answer_with: Any, tries: Any
) -> None:
    receiver.answers = [answer_with(500, b"out of order"), answer_with(429), answer_with(204)]
    hook = hook_to(receiver.url)
    hook.ping()
    (delivery,) = hook.settled()
    assert (delivery["status"], tries(delivery)) == ("delivered", [500, 429, 204])
    assert delivery["attempts"][0]["error"] == "The receiver answered 500."
    assert delivery["attempts"][0]["answer"] == "out of order"
    assert len({request.body for request in receiver.requests}) == 1
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1


def test_what_fails_every_time_is_given_up_and_sent_again_when_asked(
    hook_to: Any, receiver: Any, answer_with: Any, tries: Any
) -> None:
    receiver.answers = [answer_with(500)]
    hook = hook_to(receiver.url)
    hook.ping()
    (delivery,) = hook.settled()
    assert (delivery["status"], tries(delivery)) == ("failed", [500] * 3)
    assert hook.redeliver(delivery)["status"] == "pending"
    assert tries(hook.settled()[0]) == [500] * 6, "it is tried as often as the first time"
    receiver.answers = [answer_with(204)]
    hook.redeliver(delivery)
    (delivery,) = hook.settled()
    assert (delivery["status"], tries(delivery)) == ("delivered", [500] * 6 + [204])
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1


def test_a_message_about_the_lab_is_not_sent_again_for_who_is_no_longer_an_admin(service: Any, receiver: Any) -> None:
    deputy = service.client(service.new_user("deputy", role="admin"))
    body = {"url": receiver.url, "events": ["job.queued"], "scope": "lab"}
    hook = deputy.post("/webhooks", json=body).headers["location"]
    job_id = submit(service.http)
    receiver.wait(1)
    query = "SELECT * FROM deliveries WHERE job_id = %s"
    deadline = time.monotonic() + 20
    while (before := service.rows(query, job_id))[0]["status"] == "pending":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    audited = service.rows("SELECT count(*) AS n FROM audit WHERE action = 'webhook.redeliver'")
    assert service.http.patch("/users/deputy", json={"role": "member"}).is_success
    answer = deputy.post(f"{hook}/deliveries/{before[0]['id']}/redeliver")
    assert (answer.status_code, answer.json()["code"]) == (403, "admin_only")
    assert service.rows(query, job_id) == before, "it is not due again"
    assert service.rows("SELECT count(*) AS n FROM audit WHERE action = 'webhook.redeliver'") == audited
    assert len(receiver.requests) == 1
    assert service.http.delete(hook).is_success


@pytest.mark.parametrize("delivery_id", ["another's", "999999999", "x", "-1", "9" * 40, "\u0661"])
def test_a_delivery_of_another_webhook_is_not_found(member: Any, hook_to: Any, receiver: Any, delivery_id: str) -> None:
    other, mine = hook_to(receiver.url), hook_to(receiver.url)
    anothers = other.ping()["id"]
    delivery_id = anothers if delivery_id == "another's" else delivery_id
    answer = member.post(f"{mine.path}/deliveries/{delivery_id}/redeliver")
    assert (answer.status_code, answer.json()["code"]) == (404, "delivery_not_found")
    assert [len(delivery["attempts"]) for delivery in other.settled()] == [1]


def test_a_receiver_that_is_down_gets_it_when_it_is_up(hook_to: Any, start_receiver: Any) -> None:
    gone = start_receiver()
    gone.close()
    hook = hook_to(gone.url)
    hook.ping()
    deadline = time.monotonic() + 20
    while not hook.deliveries()[0]["attempts"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    back = start_receiver(gone.port)
    (delivery,) = hook.settled()
    assert delivery["status"] == "delivered"
    assert delivery["attempts"][0]["error"].startswith("No answer: ")
    assert len(back.requests) == 1


def test_the_events_of_a_job_wait_for_each_other(member: Any, hook_to: Any, receiver: Any, answer_with: Any) -> None:
    receiver.answers = [answer_with(500), answer_with(500), answer_with(204)]
    hook = hook_to(receiver.url)
    member.post(f"/jobs/{submit(member)}/cancel")
    hook.settled(2)
    assert [message["type"] for message in receiver.messages] == ["job.queued"] * 3 + ["job.cancelled"]


def test_what_is_given_up_holds_up_neither_its_job_nor_others(
    member: Any, hook_to: Any, receiver: Any, answer_with: Any
) -> None:
    def refuse_the_first_event(handler: Any) -> None:
        message = handler.received.message
        refused = (message["type"], message["data"]["job"]["name"]) == ("job.queued", "first")
        answer_with(500 if refused else 204)(handler)

    receiver.answers = [refuse_the_first_event]
    hook = hook_to(receiver.url)
    first, second = submit(member, name="first"), submit(member, name="second")
    for job_id in (first, second):
        member.post(f"/jobs/{job_id}/cancel")
    outcomes = {(delivery["job_id"], delivery["event"]): delivery["status"] for delivery in hook.settled(4)}
    assert outcomes == {
        (first, "job.queued"): "failed",
        (first, "job.cancelled"): "delivered",
        (second, "job.queued"): "delivered",
        (second, "job.cancelled"): "delivered",
    }


def test_ten_deliveries_given_up_in_a_row_disable_a_webhook(
    member: Any, hook_to: Any, service: Any, receiver: Any, answer_with: Any
) -> None:
    receiver.answers = [answer_with(410)]
    hook = hook_to(receiver.url)
    for _ in range(12):
        hook.ping()
    deadline = time.monotonic() + 60
    while (view := hook.view())["enabled"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    reason = "10 deliveries in a row were given up. The last: The receiver answered 410."
    assert view["disabled_reason"] == reason
    time.sleep(1.5)  # what had begun ends; nothing else is begun
    sent = len(receiver.requests)
    waiting = {delivery["id"] for delivery in hook.deliveries() if delivery["status"] == "pending"}
    assert sum(delivery["status"] == "failed" for delivery in hook.deliveries()) >= 10
    time.sleep(1.5)
    assert len(receiver.requests) == sent
    params = {"subject": f"webhook:{view['id']}", "action": "webhook.disable"}
    (entry,) = service.http.get("/audit", params=params).json()["items"]
    assert (entry["user"], entry["token"], entry["detail"]) == (view["user"], None, {"reason": reason})
    assert entry["request_id"] in {f"delivery-{delivery['id']}" for delivery in hook.deliveries()}
    receiver.answers = [answer_with(204)]
    view = member.patch(hook.path, json={"enabled": True}).json()
    assert (view["enabled"], view["disabled_reason"]) == (True, None)
    after = hook.settled(12)
    assert {delivery["id"] for delivery in after if delivery["status"] == "delivered"} == waiting


def test_a_killed_api_delivers_after_its_restart_what_it_was_sending(
    member: Any, hook_to: Any, service: Any, receiver: Any
) -> None:
    over = threading.Event()
    receiver.answers = [lambda handler: over.wait(20), receiver.answers[0]]
    hook = hook_to(receiver.url)
    job_id = submit(member)
    receiver.wait(1)
    service.stack.kill_child("api", signal.SIGKILL)
    over.set()
    service.stack.start_child("api")
    service.stack.wait_until_ready()
    member.post(f"/jobs/{job_id}/cancel")
    cancelled, queued = hook.settled(2)
    assert (queued["event"], queued["status"], cancelled["status"]) == ("job.queued", "delivered", "delivered")
    assert [attempt["number"] for attempt in queued["attempts"]] == [2], "of the first try nobody can tell"
    assert [message["type"] for message in receiver.messages] == ["job.queued", "job.queued", "job.cancelled"]
    assert len({request.headers["webhook-id"] for request in receiver.requests[:2]}) == 1


def test_two_processes_share_the_work_and_send_nothing_twice(
    member: Any, hook_to: Any, service: Any, receiver: Any, fast_webhooks: dict[str, Any]
) -> None:
    hook_to(receiver.url, "job.queued")
    with service.another_api(**fast_webhooks):
        items = member.post("/jobs:batch", json={"jobs": [GPU_SPEC] * 200}).json()["items"]
        receiver.wait(200, seconds=60)
    told = [message["data"]["job"]["id"] for message in receiver.messages]
    assert sorted(told) == sorted(item["job"]["id"] for item in items)


def test_no_database_connection_is_held_while_receivers_are_slow(
    member: Any, hook_to: Any, service: Any, receiver: Any
) -> None:
    over = threading.Event()
    receiver.answers = [lambda handler: over.wait(20)]
    hooks = [hook_to(receiver.url) for _ in range(12)]
    for hook in hooks:
        hook.ping()
    receiver.wait(11)  # more than the process has connections
    assert member.get("/jobs").status_code == 200
    held = service.rows(IN_TRANSACTION)
    time.sleep(0.5)
    assert [one for one in service.rows(IN_TRANSACTION) if one in held] == [], "others' take milliseconds"
    over.set()
    for hook in hooks:
        member.delete(hook.path)


def test_a_slow_receiver_does_not_hold_up_the_others(member: Any, hook_to: Any, start_receiver: Any) -> None:
    slow, quick = start_receiver(), start_receiver()
    over = threading.Event()
    slow.answers = [lambda handler: over.wait(20)]
    slow_hook, quick_hook = hook_to(slow.url), hook_to(quick.url)
    for _ in range(40):
        slow_hook.ping()
    quick_hook.ping()
    quick_hook.settled()
    assert any(delivery["status"] == "pending" for delivery in slow_hook.deliveries())
    over.set()
    member.delete(slow_hook.path)


@pytest.mark.parametrize("others", [False, True], ids=["of the same user", "of another user"])
def test_many_slow_receivers_leave_a_quick_one_its_turn(
    member: Any, hook_to: Any, service: Any, start_receiver: Any, others: bool
) -> None:
    slow, quick = start_receiver(), start_receiver()
    over = threading.Event()
    slow.answers = [lambda handler: over.wait(20)]
    slow_hooks = [hook_to(slow.url, "job.queued") for _ in range(12)]  # 24 tries at a time, if they could
    owner = service.client(service.new_user("quick")) if others else member
    made = owner.post("/webhooks", json={"url": quick.url, "events": ["job.queued"]}).json()
    for http in {member, owner}:
        assert http.post("/jobs:batch", json={"jobs": [GPU_SPEC] * 12}).status_code == 201
    quick.wait(12)
    tried = tries_of(service, [hook.path.removeprefix("/webhooks/") for hook in slow_hooks])
    assert tried < 2 * outbox.MOST_AT_ONCE, "each of them once or twice, not until they were given up"
    over.set()
    for path in [*(hook.path for hook in slow_hooks), f"/webhooks/{made['id']}"]:
        service.http.delete(path)


def tries_of(service: Any, webhooks: list[str]) -> int:
    """Return how many tries of deliveries to these webhooks have begun."""
    query = "SELECT sum(attempts) AS n FROM deliveries WHERE webhook_id = ANY (%s::uuid[])"
    return int(service.rows(query, webhooks)[0]["n"])


def test_the_log_is_paged_newest_first(member: Any, hook_to: Any, receiver: Any) -> None:
    hook = hook_to(receiver.url)
    ids = [hook.ping()["id"] for _ in range(5)]
    seen: list[int] = []
    after = None
    while len(seen) < 5:
        parameters = {"limit": 2} | ({"after": after} if after else {})
        page = member.get(f"{hook.path}/deliveries", params=parameters).json()
        seen += [delivery["id"] for delivery in page["items"]]
        after = page["next"]
    assert (seen, after) == (list(reversed(ids)), None)


def test_deliveries_of_more_than_thirty_days_ago_are_forgotten(
    hook_to: Any, service: Any, receiver: Any, tidy: Any
) -> None:
    hook = hook_to(receiver.url)
    old, young = (hook.ping()["id"] for _ in range(2))
    hook.settled(2)
    service.rows("UPDATE deliveries SET created_at = created_at - interval '31 days' WHERE id = %s", old)
    tidy(service)
    assert [delivery["id"] for delivery in hook.deliveries()] == [young]
    assert service.rows("SELECT 1 FROM delivery_attempts WHERE delivery_id = %s", old) == []
