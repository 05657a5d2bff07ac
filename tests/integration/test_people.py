"""Users: made, changed and disabled by admins; who may do what; the caller's own page; and no token at all."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

PROBLEM = "application/problem+json"
GUARDED = [
    ("GET", "/jobs"),
    ("POST", "/jobs"),
    ("POST", "/jobs:validate"),
    ("GET", "/jobs/not-an-id"),
    ("GET", "/jobs/01a1fc05-96f8-74b8-9c20-173cf1283400/metrics"),
    ("GET", "/jobs/01a1fc05-96f8-74b8-9c20-173cf1283400/result"),
    ("GET", "/jobs/01a1fc05-96f8-74b8-9c20-173cf1283400/logs"),
    ("POST", "/jobs/01a1fc05-96f8-74b8-9c20-173cf1283400/cancel"),
    ("GET", "/recipes"),
    ("GET", "/recipes/lenet"),
    ("GET", "/datasets"),
    ("GET", "/datasets/digits"),
    ("GET", "/me"),
    ("GET", "/users"),
    ("POST", "/users"),
    ("GET", "/users/admin"),
    ("PATCH", "/users/admin"),
    ("DELETE", "/users/admin"),
    ("GET", "/tokens"),
    ("POST", "/tokens"),
    ("DELETE", "/tokens/00000000000000000000000000000000"),
    ("GET", "/audit"),
]
ADMINS_ONLY = [
    ("GET", "/users"),
    ("POST", "/users"),
    ("GET", "/users/admin"),
    ("PATCH", "/users/admin"),
    ("DELETE", "/users/admin"),
    ("GET", "/audit"),
    ("GET", "/tokens?user=admin"),
]
BODIES = {"/users": {"name": "eve", "role": "admin"}, "/users/admin": {"role": "member"}}


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    """A service without workers: nothing here is to be run."""
    return start_service(workers=0)


def people(service: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = service.rows("SELECT name, role, disabled_at FROM users ORDER BY name")
    return rows


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_nothing_is_answered_without_a_token_whatever_is_sent(service: Any, method: str, path: str) -> None:
    before = people(service)
    for body in (b"", b"{not json", b"x" * 2_000_000):
        answer = service.anonymous().request(method, path, content=body)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
        assert answer.headers["content-type"] == PROBLEM
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "ratelimit-limit" not in answer.headers
    assert people(service) == before


def test_every_route_but_health_and_the_description_is_guarded_and_says_so(service: Any) -> None:
    document = service.anonymous().get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    open_paths = set()
    for path, methods in document["paths"].items():
        for operation in methods.values():
            if "security" not in operation:
                open_paths.add(path)
                continue
            assert [list(scheme) for scheme in operation["security"]] == [["token"]]
            refusals = {"401", "429"} if path == "/me" else {"401", "403", "429"}  # any token may ask who it is
            assert refusals <= operation["responses"].keys(), (path, operation["operationId"])
    assert open_paths == {"/healthz", "/readyz", "/metrics"}


def test_health_needs_no_token_and_an_unknown_route_says_no_more_than_that(service: Any) -> None:
    stranger = service.anonymous()
    assert stranger.get("/healthz").status_code == stranger.get("/readyz").status_code == 200
    assert stranger.get("/nothing/here").json()["code"] == "not_found"


def test_a_user_is_made_shown_listed_and_stored(service: Any) -> None:
    answer = service.http.post("/users", json={"name": "grace"})
    assert (answer.status_code, answer.headers["location"]) == (201, "/users/grace")
    assert {field: value for field, value in answer.json().items() if field != "created_at"} == {
        "name": "grace",
        "role": "member",
        "disabled_at": None,
        "weight": 1.0,
        "max_running": None,
        "max_queued": None,
    }
    assert service.http.get("/users/grace").json() == answer.json()
    assert answer.json() in service.http.get("/users", params={"limit": 100}).json()["items"]


def test_users_are_listed_in_pages_that_neither_skip_nor_repeat(service: Any) -> None:
    for number in range(5):
        service.http.post("/users", json={"name": f"page-{number}"})
    seen: list[str] = []
    after: str | None = "page"
    while after is not None:
        page = service.http.get("/users", params={"limit": 2, "after": after}).json()
        seen += [user["name"] for user in page["items"]]
        after = page["next"]
    assert [name for name in seen if name.startswith("page-")] == [f"page-{number}" for number in range(5)]
    assert len(seen) == len(set(seen))


def test_a_name_is_given_once(service: Any) -> None:
    service.http.post("/users", json={"name": "once"})
    answer = service.http.post("/users", json={"name": "once", "role": "admin"})
    assert (answer.status_code, answer.json()["code"]) == (409, "user_exists")
    assert service.http.get("/users/once").json()["role"] == "member"


@pytest.mark.parametrize(
    ("body", "loc", "code"),
    [
        ({}, "name", "missing"),
        ({"name": ""}, "name", "string_pattern_mismatch"),
        ({"name": "Ada"}, "name", "string_pattern_mismatch"),
        ({"name": "../admin"}, "name", "string_pattern_mismatch"),
        ({"name": "nul\x00"}, "name", "string_pattern_mismatch"),
        ({"name": "line\n"}, "name", "string_pattern_mismatch"),
        ({"name": "x" * 65}, "name", "string_pattern_mismatch"),
        ({"name": 7}, "name", "string_type"),
        ({"name": "new", "role": "root"}, "role", "enum"),
        ({"name": "new", "role": 1}, "role", "enum"),
        ({"name": "new", "password": "x"}, "password", "extra_forbidden"),
    ],
)
def test_a_bad_user_is_refused_at_its_field(service: Any, body: Any, loc: str, code: str) -> None:
    before = people(service)
    answer = service.http.post("/users", json=body)
    assert answer.status_code == 422, answer.text
    assert [(error["loc"], error["code"]) for error in answer.json()["errors"]] == [(loc, code)]
    assert people(service) == before


@pytest.mark.parametrize("name", ["nobody", "NOBODY", "%00", "..%2Fadmin", "x" * 3_000, "'; DROP TABLE users; --"])
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_an_unknown_user_is_not_found(service: Any, method: str, name: str) -> None:
    answer = service.http.request(method, f"/users/{name}", json={} if method == "PATCH" else None)
    assert answer.status_code == 404
    assert answer.json()["code"] in {"user_not_found", "not_found"}


@pytest.mark.parametrize(("method", "path"), ADMINS_ONLY)
def test_a_member_administrates_nothing(service: Any, method: str, path: str, member: str) -> None:
    before = people(service)
    answer = service.client(member).request(method, path, json=BODIES.get(path) if method != "GET" else None)
    assert (answer.status_code, answer.json()["code"]) == (403, "admin_only")
    assert answer.headers["content-type"] == PROBLEM
    assert people(service) == before


@pytest.fixture(scope="module")
def member(service: Any) -> str:
    token: str = service.new_user("member")
    return token


def test_an_admins_token_without_the_scope_administrates_nothing(service: Any) -> None:
    made = service.http.post("/tokens", json={"name": "reads", "scopes": ["read"]}).json()
    reader = service.client(made["token"])
    assert reader.get("/users").json()["code"] == "admin_only"
    assert reader.get("/me").json()["scopes"] == ["read"]
    assert reader.post("/jobs", json={}).json()["code"] == "insufficient_scope"


def test_my_page_says_who_i_am_and_what_my_token_is(service: Any, member: str) -> None:
    me = service.client(member).get("/me").json()
    assert me == {
        "user": "member",
        "role": "member",
        "scopes": ["read", "write"],
        "token": {"prefix": member.rpartition("_")[0], "name": "test", "expires_at": None},
        "rate_limit": {"requests_per_minute": 6_000, "burst": 100_000},
        "weight": 1.0,
        "max_running": None,
        "max_queued": 10_000,
    }


def test_a_demoted_admin_is_a_member_at_once_and_a_promoted_one_an_admin_again(service: Any) -> None:
    token = service.new_user("deputy", role="admin")
    deputy = service.client(token)
    assert deputy.get("/users").status_code == 200
    assert service.http.patch("/users/deputy", json={"role": "member"}).json()["role"] == "member"
    assert deputy.get("/users").json()["code"] == "admin_only"
    assert deputy.get("/me").json()["scopes"] == ["read", "write"]
    service.http.patch("/users/deputy", json={"role": "admin"})
    assert deputy.get("/users").status_code == 200


def test_a_disabled_user_is_refused_at_once_and_works_again_when_enabled(service: Any) -> None:
    client = service.client(service.new_user("away"))
    assert client.get("/me").status_code == 200
    assert service.http.patch("/users/away", json={"disabled": True}).json()["disabled_at"] is not None
    refused = client.get("/me")
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")
    assert "disabled" in refused.json()["detail"]
    assert service.http.post("/tokens", json={"name": "new", "user": "away"}).json()["code"] == "user_disabled"
    assert service.http.patch("/users/away", json={"disabled": False}).json()["disabled_at"] is None
    assert client.get("/me").status_code == 200


def test_a_deleted_user_is_disabled_and_their_tokens_stay_revoked(service: Any) -> None:
    client = service.client(service.new_user("leaver"))
    assert client.get("/me").status_code == 200
    assert service.http.delete("/users/leaver").status_code == 204
    assert client.get("/me").status_code == 401
    assert service.http.delete("/users/leaver").status_code == 204, "a second time changes nothing"
    service.http.patch("/users/leaver", json={"disabled": False})
    assert client.get("/me").json()["detail"] == "The token is revoked."
    audit = service.http.get("/audit", params={"subject": "user:leaver", "action": "user.disable"}).json()
    assert [entry["detail"] for entry in audit["items"]] == [{"revoked_tokens": 1}]


@pytest.mark.parametrize(
    ("method", "body"), [("DELETE", None), ("PATCH", {"role": "member"}), ("PATCH", {"disabled": True})]
)
def test_the_last_admin_can_be_neither_disabled_nor_demoted(service: Any, method: str, body: Any) -> None:
    others = [user["name"] for user in people(service) if user["role"] == "admin" and user["name"] != "admin"]
    for name in others:
        service.http.delete(f"/users/{name}")
    answer = service.http.request(method, "/users/admin", json=body)
    assert (answer.status_code, answer.json()["code"]) == (409, "last_admin")
    assert service.http.get("/users/admin").json()["disabled_at"] is None
    assert service.http.get("/me").json()["role"] == "admin"
    assert service.http.get("/audit", params={"subject": "user:admin", "action": "user.update"}).json()["items"] == []


def test_two_admins_who_disable_each_other_leave_one(service: Any) -> None:
    for turn in range(5):
        names = [f"left-{turn}", f"right-{turn}"]
        tokens = [service.new_user(name, role="admin") for name in names]
        service.rows("UPDATE users SET disabled_at = now() WHERE role = 'admin' AND name <> ALL(%s)", names)
        clients = [service.client(token) for token in tokens]
        with ThreadPoolExecutor(2) as pool:
            answers = [
                pool.submit(client.delete, f"/users/{name}")
                for client, name in zip(clients, reversed(names), strict=True)
            ]
            codes = sorted(future.result().status_code for future in answers)
        # The slower one is refused: as the last one's deed, or because its author is disabled by then.
        assert codes[0] == 204
        assert codes[1] in {401, 409}
        active = [user["name"] for user in people(service) if user["role"] == "admin" and user["disabled_at"] is None]
        assert len(active) == 1
        service.rows("UPDATE users SET disabled_at = NULL WHERE name = 'admin'")
        service.rows("UPDATE users SET role = 'member' WHERE name = ANY(%s)", names)
        service.rows("NOTIFY trainyard_access")


def test_without_the_setting_nobody_is_anonymous(service: Any) -> None:
    assert service.anonymous().get("/me").status_code == 401
    assert service.rows("SELECT count(*) AS n FROM users WHERE name = 'anonymous'") == [{"n": 0}]


def test_with_the_setting_whoever_sends_no_token_is_a_member_of_that_name(service: Any) -> None:
    with service.another_api(allow_anonymous=True) as api, api.client() as stranger:
        assert service.rows("SELECT count(*) AS n FROM users WHERE name = 'anonymous'") == [{"n": 0}]
        me = stranger.get("/me", headers={"x-request-id": "first-stranger"}).json()
        assert (me["user"], me["role"], me["scopes"], me["token"]) == ("anonymous", "member", ["read", "write"], None)
        assert stranger.get("/users").json()["code"] == "admin_only"
        refused = stranger.post("/tokens", json={"name": "mine"})
        assert (refused.status_code, refused.json()["code"]) == (409, "reserved_user")
        assert service.http.patch("/users/anonymous", json={"role": "admin"}).json()["code"] == "reserved_user"
        with api.client("no-token") as bad:
            assert bad.get("/me").status_code == 401, "a bad token is not taken for none"
        with api.client(Authorization="Basic YTpi") as basic:
            assert basic.get("/me").status_code == 401
        with api.client(Origin="https://evil.example") as page:
            assert page.get("/me").status_code == 401, "a foreign page in a browser is not this machine"
        with api.client(Host="evil.example") as rebound:
            assert rebound.get("/me").status_code == 401
        service.http.patch("/users/anonymous", json={"disabled": True})
        assert api.settles(stranger, 401)
    made = service.http.get("/audit", params={"subject": "user:anonymous", "action": "user.create"}).json()["items"]
    told = [(entry["user"], entry["token"], entry["request_id"], entry["detail"]) for entry in made]
    assert told == [("anonymous", None, "first-stranger", {"role": "member"})]
    assert service.rows("SELECT role FROM users WHERE name = 'anonymous'") == [{"role": "member"}]


def test_nobody_takes_the_name_of_the_anonymous_user(service: Any) -> None:
    assert service.http.post("/users", json={"name": "anonymous"}).json()["code"] == "reserved_user"
