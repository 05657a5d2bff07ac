"""What every answer carries: the rate limit, a request id, careful headers; and nothing for other sites."""

from typing import Any
from uuid import UUID

import pytest


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    """A service without workers: nothing here is to be run."""
    return start_service(workers=0)


@pytest.fixture(scope="module")
def member(service: Any) -> str:
    token: str = service.new_user("member")
    return token


def test_answers_say_where_the_caller_stands_and_too_many_requests_are_refused(service: Any, member: str) -> None:
    with service.another_api(rate_limit_per_minute=60, rate_limit_burst=5) as api:
        with api.client(member) as client:
            first = client.get("/me")
            assert first.json()["rate_limit"] == {"requests_per_minute": 60, "burst": 5}
            assert first.headers["ratelimit-limit"] == "5"
            assert first.headers["ratelimit-remaining"] == "4"
            assert first.headers["ratelimit-reset"] == "1"
            assert first.headers["ratelimit-policy"] == "60;w=60;burst=5"
            answers = [client.post("/jobs", json={"bad": 1}), client.get("/jobs/none"), client.get("/users")]
            assert [answer.status_code for answer in answers] == [422, 404, 403]
            assert all(int(answer.headers["ratelimit-remaining"]) < 5 for answer in answers), "errors say it too"
            answers = [client.get("/me") for _ in range(20)]
            refused = [answer for answer in answers if answer.status_code == 429]
            assert refused
            for answer in refused:
                assert answer.json()["code"] == "rate_limited"
                assert (answer.headers["retry-after"], answer.headers["ratelimit-remaining"]) == ("1", "0")
        with api.client(service.stack.admin_token) as other:
            assert other.get("/me").status_code == 200, "others have a limit of their own"


def test_every_answer_has_a_request_id_and_careful_headers_errors_too(service: Any, member: str) -> None:
    client = service.client(member)
    for path, status in (("/me", 200), ("/nothing", 404), ("/jobs/none", 404), ("/users", 403)):
        answer = client.get(path, headers={"x-request-id": "my-request.1"})
        assert (answer.status_code, answer.headers["x-request-id"]) == (status, "my-request.1")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    answer = client.get("/me", headers={"x-request-id": "no good\tone"})
    assert UUID(answer.headers["x-request-id"]).version == 7
    assert client.post("/jobs", content=b"x" * 1_100_000).headers["x-request-id"]
    assert "request_id=my-request.1" in service.log("api")


def test_an_unexpected_error_has_a_request_id_too_and_tells_nothing(service: Any) -> None:
    made = service.http.post("/tokens", json={"name": "broken"}).json()
    service.rows("UPDATE tokens SET scopes = ARRAY['nonsense'] WHERE id = %s", made["id"])
    answer = service.client(made["token"]).get("/me", headers={"x-request-id": "broken-1"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "broken-1")
    assert answer.json()["detail"] == "An unexpected error; it has been logged."
    assert answer.headers["x-frame-options"] == "DENY"
    assert "nonsense" not in answer.text
    service.rows("DELETE FROM tokens WHERE id = %s", made["id"])


def test_a_mistake_of_ours_in_a_statement_is_no_outage_and_is_logged_with_its_trace(service: Any) -> None:
    service.rows("ALTER TABLE audit RENAME TO elsewhere")
    try:
        answer = service.http.get("/audit")
    finally:
        service.rows("ALTER TABLE elsewhere RENAME TO audit")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert answer.headers["content-type"] == "application/problem+json"
    assert "retry-after" not in answer.headers
    assert "UndefinedTable" in service.log("api")
    assert service.http.get("/audit").status_code == 200


def test_a_refused_method_is_told_of_all_others_head_among_them(service: Any) -> None:
    assert service.http.put("/jobs").headers["allow"] == "GET, HEAD, POST"
    refused = service.http.head("/jobs:validate")
    assert (refused.status_code, refused.headers["allow"], refused.content) == (405, "POST", b"")


def test_no_page_of_another_site_may_read_an_answer(service: Any, member: str) -> None:
    client = service.client(member)
    answer = client.get("/me", headers={"Origin": "https://evil.example"})
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    preflight = client.options(
        "/jobs", headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    )
    assert (preflight.status_code, preflight.json()["code"]) == (405, "method_not_allowed")
    assert not [name for name in preflight.headers if name.startswith("access-control-")]
