"""One try at a delivery: bounded in time and size, and to nowhere else than where it may go."""

import threading
import time
from typing import Any

import pytest


@pytest.fixture(scope="module")
def service(start_service: Any, fast_webhooks: dict[str, Any]) -> Any:
    """A service without workers."""
    return start_service(workers=0, **fast_webhooks | {"webhook_timeout_seconds": 1, "webhook_lease_seconds": 2})


def test_a_receiver_that_does_not_answer_in_time_is_left(hook_to: Any, receiver: Any) -> None:
    over = threading.Event()
    receiver.answers = [lambda handler: over.wait(20)]
    hook = hook_to(receiver.url)
    hook.ping()
    (delivery,) = hook.settled()
    over.set()
    assert delivery["status"] == "failed"
    assert {attempt["error"] for attempt in delivery["attempts"]} == {"No answer within 1 s."}


def test_an_answer_that_trickles_is_left_too(hook_to: Any, receiver: Any) -> None:
    def trickle(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        while True:  # until the sender has gone
            handler.wfile.write(b".")
            time.sleep(0.1)

    receiver.answers = [trickle]
    hook = hook_to(receiver.url)
    hook.ping()
    (delivery,) = hook.settled()
    assert (delivery["status"], delivery["attempts"][0]["error"]) == ("failed", "No answer within 1 s.")


def test_an_answer_without_end_is_not_read_to_its_end(hook_to: Any, receiver: Any, tries: Any) -> None:
    def flood(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.send_header("Content-Length", str(10**12))
        handler.end_headers()
        while True:  # until the sender has gone
            handler.wfile.write(b"x" * 65_536)

    receiver.answers = [flood]
    hook = hook_to(receiver.url)
    hook.ping()
    (delivery,) = hook.settled()
    assert (delivery["status"], tries(delivery)) == ("delivered", [200])
    assert 0 < len(delivery["attempts"][0]["answer"]) <= 1_024


def test_an_answer_that_is_no_http_is_a_failure(hook_to: Any, receiver: Any) -> None:
    receiver.answers = [lambda handler: handler.wfile.write(b"\x00\xff not http \r\n\r\n") and None]
    hook = hook_to(receiver.url)
    hook.ping()
    (delivery,) = hook.settled()
    assert delivery["status"] == "failed"
    assert delivery["attempts"][0]["error"].startswith("No answer: ")


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(hook_to: Any, start_receiver: Any, answer_with: Any, tries: Any, code: int) -> None:
    receiver, elsewhere = start_receiver(), start_receiver()
    receiver.answers = [answer_with(code, Location=elsewhere.url)]
    hook = hook_to(receiver.url)
    hook.ping()
    (delivery,) = hook.settled()
    assert (delivery["status"], tries(delivery)) == ("failed", [code] * 3)
    assert "redirects are not followed" in delivery["attempts"][0]["error"]
    assert elsewhere.requests == []


def test_no_proxy_and_no_cookie_of_a_receivers_is_used(
    hook_to: Any, api_with: Any, start_receiver: Any, answer_with: Any
) -> None:
    receiver, proxy = start_receiver(), start_receiver()
    receiver.answers = [answer_with(200, **{"Set-Cookie": "session=1; Path=/"})]
    address = f"http://127.0.0.1:{proxy.port}"
    with api_with(HTTP_PROXY=address, http_proxy=address, ALL_PROXY=address):
        hook = hook_to(receiver.url)
        for _ in range(2):
            hook.ping()
        hook.settled(2)
    assert len(receiver.requests) == 2
    assert proxy.requests == []
    assert not any("cookie" in request.headers for request in receiver.requests)


def test_without_allowed_hosts_nothing_is_sent(member: Any, hook_to: Any, api_with: Any, receiver: Any) -> None:
    hook = hook_to(receiver.url)
    with api_with(TRAINYARD_WEBHOOK_HOSTS=""):
        answer = member.post("/webhooks", json={"url": receiver.url, "events": ["job.failed"]})
        assert (answer.status_code, answer.json()["code"]) == (422, "webhook_host_not_allowed")
        hook.ping()
        time.sleep(2)
        assert receiver.requests == []
    receiver.wait(1)


def test_a_host_that_is_no_longer_on_the_list_is_sent_nothing(
    hook_to: Any, api_with: Any, receiver: Any, tries: Any
) -> None:
    hook = hook_to(receiver.url)
    with api_with(TRAINYARD_WEBHOOK_HOSTS="hooks.lab.org"):
        hook.ping()
        (delivery,) = hook.settled()
    assert (delivery["status"], tries(delivery)) == ("failed", [None] * 3)
    assert delivery["attempts"][0]["error"].startswith("Webhooks may not be sent to 127.0.0.1")
    assert receiver.requests == []


def test_an_inner_address_is_refused_also_behind_a_name(
    member: Any, hook_to: Any, api_with: Any, receiver: Any, tries: Any
) -> None:
    with api_with(TRAINYARD_WEBHOOK_PRIVATE_ADDRESSES="false"):
        answer = member.post("/webhooks", json={"url": receiver.url, "events": ["job.failed"]})
        assert (answer.status_code, answer.json()["code"]) == (422, "webhook_address_not_allowed")
        hook = hook_to(f"http://localhost:{receiver.port}/hook")
        hook.ping()
        (delivery,) = hook.settled()
    assert (delivery["status"], tries(delivery)) == ("failed", [None] * 3)
    assert "may not be sent to the address" in delivery["attempts"][0]["error"]
    assert receiver.requests == []
    hook.redeliver(delivery)
    assert receiver.wait(1)[0].headers["host"] == f"localhost:{receiver.port}", "allowed, it is reached by its name"
