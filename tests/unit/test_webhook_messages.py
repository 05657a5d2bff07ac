"""Messages of webhooks: signed as the Standard Webhooks specification has it."""

import base64
import json
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from api.webhooks.delivery import retry_seconds
from api.webhooks.messages import body_of, headers_of, new_secret, sign


def test_a_signature_is_that_of_the_specifications_example() -> None:
    signature = sign(
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1_614_265_330,
        b'{"test": 2432232314}',
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    )
    assert signature == "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_signature_covers_id_time_and_body() -> None:
    secret = new_secret()
    signatures = {
        sign("msg_1", 1_700_000_000, b"{}", secret),
        sign("msg_2", 1_700_000_000, b"{}", secret),
        sign("msg_1", 1_700_000_001, b"{}", secret),
        sign("msg_1", 1_700_000_000, b"{ }", secret),
        sign("msg_1", 1_700_000_000, b"{}", new_secret()),
    }
    assert len(signatures) == 5


def test_a_secret_is_32_random_bytes_after_its_prefix() -> None:
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    for secret in secrets:
        assert secret.startswith("whsec_")
        assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32


def test_the_headers_say_id_time_and_signature() -> None:
    secret = new_secret()
    headers = headers_of("msg_1", 1_700_000_000, b"{}", secret)
    assert headers == {
        "webhook-id": "msg_1",
        "webhook-timestamp": "1700000000",
        "webhook-signature": f"v1,{sign('msg_1', 1_700_000_000, b'{}', secret)}",
    }


def test_a_body_has_the_same_bytes_in_every_try() -> None:
    moment = datetime(2026, 11, 21, 8, tzinfo=UTC)
    bodies = {body_of("msg_1", "job.failed", moment, {"job": {"name": "ŝovelilo", "tags": ["a"]}}) for _ in range(3)}
    assert len(bodies) == 1
    assert json.loads(bodies.pop()) == {
        "id": "msg_1",
        "type": "job.failed",
        "created_at": "2026-11-21T08:00:00+00:00",
        "data": {"job": {"name": "ŝovelilo", "tags": ["a"]}},
    }


@given(nth_try=st.integers(1, 20))
def test_each_wait_is_three_times_the_one_before_within_a_fifth(nth_try: int) -> None:
    nominal = 10 * 3 ** (nth_try - 1)
    assert 0.8 * nominal <= retry_seconds(nth_try, 10) <= 1.2 * nominal


def test_eight_tries_are_spread_over_some_hours() -> None:
    waits = [retry_seconds(nth_try, 10) for nth_try in range(1, 8)]
    assert 2 * 3_600 < sum(waits) < 4 * 3_600
