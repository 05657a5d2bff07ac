"""Tokens: made, shown once, limited in what and for how long, revoked everywhere at once, never leaked."""

import time
from typing import Any

import pytest


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    """A service without workers: nothing here is to be run."""
    return start_service(workers=0)


@pytest.fixture(scope="module")
def member(service: Any) -> str:
    token: str = service.new_user("member")
    return token


def make(client: Any, **fields: Any) -> dict[str, Any]:
    answer = client.post("/tokens", json={"name": "made"} | fields)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def count(service: Any) -> Any:
    return service.rows("SELECT count(*) AS n FROM tokens")


def test_a_token_is_shown_once_and_kept_as_a_digest(service: Any) -> None:
    answer = service.http.post("/tokens", json={"name": "laptop"})
    made = answer.json()
    prefix, _, secret = made["token"].rpartition("_")
    assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
    assert answer.headers["location"] == f"/tokens/{made['id']}"
    assert (prefix, made["prefix"]) == (f"ty_{made['id']}", f"ty_{made['id']}")
    assert made["scopes"] == ["read", "write"]
    listed = service.http.get("/tokens")
    assert listed.headers["cache-control"] == "no-store"
    (shown,) = (token for token in listed.json()["items"] if token["id"] == made["id"])
    assert shown == {field: value for field, value in made.items() if field != "token"}
    assert "digest" not in shown
    (row,) = service.rows("SELECT * FROM tokens WHERE id = %s", made["id"])
    assert len(row["digest"]) == 32
    assert secret not in str(row)


def test_a_token_is_not_made_under_a_key_since_it_could_not_be_shown_again(service: Any) -> None:
    before = count(service)
    answer = service.http.post("/tokens", json={"name": "made"}, headers={"Idempotency-Key": "a"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    errors = [(error["loc"], error["code"]) for error in answer.json()["errors"]]
    assert errors == [("Idempotency-Key", "unsupported_header")]
    assert count(service) == before


def test_secrets_are_in_no_table_and_in_no_log(service: Any, member: str) -> None:
    secrets = [service.stack.admin_token.rpartition("_")[2], member.rpartition("_")[2]]
    client = service.client(member)
    client.get("/me")
    client.get(f"/users/{member}")
    client.get("/jobs", params={"after": member})
    service.client(f"{member[:-1]}0" if member[-1] != "0" else f"{member[:-1]}1").get("/me")
    for name in (path.stem for path in (service.data_dir / "logs").iterdir()):
        log = service.log(name)
        assert secrets[0] not in log
        # What a person puts into a path is theirs to keep; the header is never logged.
        assert all("/users/" in line or "after=" in line for line in log.splitlines() if secrets[1] in line)
    for table in ("users", "tokens", "audit", "jobs"):
        rows = str(service.rows(f"SELECT {table}::text AS text FROM {table}"))
        assert not [secret for secret in secrets if secret in rows]


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Basic YWRtaW46YWRtaW4=",
        "Bearer nonsense",
        f"Bearer ty_{'0' * 32}_{'0' * 64}",
        "Bearer ty_admin_admin",
        "Bearer null",
        "Bearer " + "x" * 10_000,
        "bearer ty_' OR 1=1 --_x",
    ],
)
def test_what_is_no_token_of_ours_is_refused(service: Any, header: str) -> None:
    answer = service.anonymous().get("/me", headers={"Authorization": header})
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert "revoked" not in answer.text
    assert "expired" not in answer.text


def test_two_tokens_in_one_request_are_refused(service: Any, member: str) -> None:
    header = ("Authorization", f"Bearer {member}")
    assert service.anonymous().get("/me", headers=[header]).status_code == 200
    assert service.anonymous().get("/me", headers=[header, header]).status_code == 401


def test_only_who_knows_the_secret_hears_that_a_token_is_revoked_or_has_expired(service: Any) -> None:
    revoked, expired = make(service.http), make(service.http)
    service.http.delete(f"/tokens/{revoked['id']}")
    service.rows("UPDATE tokens SET expires_at = now() - interval '1 second' WHERE id = %s", expired["id"])
    for made, word in ((revoked, "revoked"), (expired, "expired")):
        assert word in service.client(made["token"]).get("/me").json()["detail"]
        guess = f"ty_{made['id']}_{'0' * 64}"
        assert service.client(guess).get("/me").json()["detail"] == "There is no such token."


def test_an_expiry_is_kept_even_by_a_process_that_knows_the_token(service: Any) -> None:
    made = make(service.http, scopes=["read"])
    client = service.client(made["token"])
    service.rows("UPDATE tokens SET expires_at = clock_timestamp() + interval '2 seconds' WHERE id = %s", made["id"])
    assert client.get("/me").status_code == 200
    deadline = time.monotonic() + 30
    while (answer := client.get("/me")).status_code == 200:
        assert time.monotonic() < deadline, "it never expired"
        time.sleep(0.05)
    assert (answer.status_code, answer.json()["detail"]) == (401, "The token has expired.")


def test_an_expiry_in_days_and_one_at_a_time_are_stored(service: Any) -> None:
    days = make(service.http, expires_in_days=30)
    query = "SELECT extract(epoch FROM expires_at - created_at) AS seconds FROM tokens WHERE id = %s"
    assert 30 * 86_400 - 5 < service.rows(query, days["id"])[0]["seconds"] <= 30 * 86_400
    assert make(service.http, expires_at="2027-06-30T12:00:00+02:00")["expires_at"] == "2027-06-30T10:00:00Z"


@pytest.mark.parametrize(
    ("fields", "loc", "code"),
    [
        ({"name": ""}, "name", "string_too_short"),
        ({"name": "nul\x00"}, "name", "unprintable_text"),
        ({"name": "x" * 201}, "name", "string_too_long"),
        ({"scopes": []}, "scopes", "too_short"),
        ({"scopes": ["read"] * 4}, "scopes", "too_long"),
        ({"scopes": ["root"]}, "scopes.0", "enum"),
        ({"scopes": "read"}, "scopes", "list_type"),
        ({"expires_in_days": 0}, "expires_in_days", "greater_than_equal"),
        ({"expires_in_days": 3_651}, "expires_in_days", "less_than_equal"),
        ({"expires_in_days": 1.5}, "expires_in_days", "int_type"),
        ({"expires_in_days": True}, "expires_in_days", "int_type"),
        ({"expires_at": 1_900_000_000}, "expires_at", "datetime_format"),
        ({"expires_at": "1900000000"}, "expires_at", "datetime_format"),
        ({"expires_at": "2027-06-30"}, "expires_at", "datetime_format"),
        ({"expires_at": "2027-06-30T12:00:00"}, "expires_at", "datetime_format"),
        ({"expires_in_days": 1, "expires_at": "2027-06-30T12:00:00Z"}, "", "conflict"),
        ({"user": "../admin"}, "user", "string_pattern_mismatch"),
        ({"digest": "00"}, "digest", "extra_forbidden"),
    ],
)
def test_a_bad_token_is_refused_at_its_field(service: Any, fields: Any, loc: str, code: str) -> None:
    before = count(service)
    answer = service.http.post("/tokens", json={"name": "bad"} | fields)
    assert answer.status_code == 422, answer.text
    assert [(error["loc"], error["code"]) for error in answer.json()["errors"]] == [(loc, code)]
    assert count(service) == before


@pytest.mark.parametrize(
    "moment",
    ["2020-01-01T00:00:00Z", "2099-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"],
)
def test_an_expiry_that_is_over_or_too_far_away_is_refused(service: Any, moment: str) -> None:
    before = count(service)
    answer = service.http.post("/tokens", json={"name": "bad", "expires_at": moment})
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_expiry")
    assert count(service) == before


def test_a_token_allows_no_more_than_its_maker_or_its_users_role(service: Any, member: str) -> None:
    before = count(service)
    mine = service.client(member)
    refused = mine.post("/tokens", json={"name": "more", "scopes": ["read", "admin"]})
    assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope")
    refused = service.http.post("/tokens", json={"name": "more", "user": "member", "scopes": ["admin"]})
    assert (refused.status_code, refused.json()["code"]) == (422, "scope_exceeds_role")
    refused = mine.post("/tokens", json={"name": "theirs", "user": "admin"})
    assert (refused.status_code, refused.json()["code"]) == (403, "admin_only")
    assert count(service) == before
    writes = service.client(make(mine, scopes=["write"])["token"])
    assert writes.get("/jobs").json()["code"] == "insufficient_scope"
    assert writes.post("/tokens", json={"name": "more", "scopes": ["read"]}).json()["code"] == "insufficient_scope"
    reads = service.client(make(mine, scopes=["read"])["token"])
    assert reads.get("/jobs").status_code == 200
    assert reads.post("/tokens", json={"name": "more", "scopes": ["read"]}).json()["code"] == "insufficient_scope"


def test_a_token_does_not_outlive_the_one_that_makes_it(service: Any) -> None:
    short = make(service.http, expires_in_days=1)
    client, before = service.client(short["token"]), count(service)
    refused = client.post("/tokens", json={"name": "eternal", "expires_in_days": 2})
    assert (refused.status_code, refused.json()["code"]) == (422, "bad_expiry")
    assert count(service) == before
    assert make(client)["expires_at"] == short["expires_at"]


def test_a_user_has_a_bounded_number_of_working_tokens(service: Any) -> None:
    client = service.client(service.new_user("hoarder"))
    made = [make(client) for _ in range(99)]
    refused = client.post("/tokens", json={"name": "one more"})
    assert (refused.status_code, refused.json()["code"]) == (409, "too_many_tokens")
    assert client.delete(f"/tokens/{made[0]['id']}").status_code == 204
    make(client)


def test_an_unknown_user_gets_no_token(service: Any) -> None:
    assert service.http.post("/tokens", json={"name": "t", "user": "nobody"}).json()["code"] == "user_not_found"


def test_members_see_and_revoke_their_own_tokens_admins_everybodys(service: Any, member: str) -> None:
    mine = service.client(member)
    foreign, own = make(service.http), make(mine)
    assert {token["user"] for token in mine.get("/tokens", params={"limit": 100}).json()["items"]} == {"member"}
    everybody = service.http.get("/tokens", params={"limit": 100}).json()["items"]
    assert {token["user"] for token in everybody} >= {"admin", "member"}
    narrowed = service.http.get("/tokens", params={"user": "member"}).json()["items"]
    assert {token["user"] for token in narrowed} == {"member"}
    refused = mine.delete(f"/tokens/{foreign['id']}")
    assert (refused.status_code, refused.json()["code"]) == (404, "token_not_found")
    assert service.client(foreign["token"]).get("/me").status_code == 200
    assert mine.delete(f"/tokens/{own['id']}").status_code == 204
    assert service.client(own["token"]).get("/me").status_code == 401
    again = make(mine)
    assert service.http.delete(f"/tokens/{again['id']}").status_code == 204
    assert service.client(again["token"]).get("/me").status_code == 401


@pytest.mark.parametrize("token_id", ["1", "0" * 32, "0" * 31 + "A", "%00", "..", "x" * 3_000])
def test_an_unknown_token_is_not_found(service: Any, token_id: str) -> None:
    answer = service.http.delete(f"/tokens/{token_id}")
    assert answer.status_code in {404, 405}
    assert answer.json()["code"] in {"token_not_found", "not_found", "method_not_allowed"}


def test_tokens_are_listed_newest_first_in_pages(service: Any) -> None:
    service.new_user("collector")
    made = [make(service.http, user="collector")["id"] for _ in range(4)]
    seen: list[str] = []
    after: str | None = None
    while len(seen) < 4:
        params = {"user": "collector", "limit": 3} | ({"after": after} if after else {})
        page = service.http.get("/tokens", params=params).json()
        seen += [token["id"] for token in page["items"]]
        after = page["next"]
    assert seen[:4] == made[::-1]


def test_a_revoked_token_is_refused_at_once_by_every_process(service: Any) -> None:
    with service.another_api() as other:
        for _ in range(10):
            made = make(service.http)
            here = service.client(made["token"])
            with other.client(made["token"]) as there:
                assert here.get("/me").status_code == there.get("/me").status_code == 200  # both know it now
                assert service.http.delete(f"/tokens/{made['id']}").status_code == 204
                assert here.get("/me").status_code == 401
                assert other.settles(there, 401)
    assert service.rows("SELECT count(*) AS n FROM audit WHERE action = 'token.revoke'")[0]["n"] >= 10


def test_a_process_that_hears_of_no_changes_asks_the_database_each_time(service: Any) -> None:
    made = make(service.http)
    client = service.client(made["token"])
    assert client.get("/me").status_code == 200
    service.rows("UPDATE tokens SET revoked_at = now() WHERE id = %s", made["id"])
    assert client.get("/me").status_code == 200, "nobody was notified: the token is known"
    service.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%%'")
    deadline = time.monotonic() + 30
    while client.get("/me").status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "revoked" in client.get("/me").json()["detail"]


def test_a_use_is_written_down_at_most_once_a_minute(service: Any) -> None:
    made = make(service.http)
    client = service.client(made["token"])

    def last_use() -> Any:
        return service.rows("SELECT last_used_at FROM tokens WHERE id = %s", made["id"])[0]["last_used_at"]

    assert last_use() is None
    client.get("/me")
    first = last_use()
    assert first is not None
    service.rows("NOTIFY trainyard_access")  # the token is read anew
    for _ in range(5):
        client.get("/me")
    assert last_use() == first
    service.rows("UPDATE tokens SET last_used_at = now() - interval '61 seconds' WHERE id = %s", made["id"])
    service.rows("NOTIFY trainyard_access")
    deadline = time.monotonic() + 30
    while last_use() <= first:
        client.get("/me")
        assert time.monotonic() < deadline
        time.sleep(0.01)
    guess = service.client(f"ty_{made['id']}_{'0' * 64}")
    service.rows("UPDATE tokens SET last_used_at = NULL WHERE id = %s", made["id"])
    service.rows("NOTIFY trainyard_access")
    assert guess.get("/me").status_code == 401
    assert last_use() is None, "a guess is no use"


def test_known_tokens_cost_the_database_nothing(service: Any) -> None:
    client = service.client(make(service.http)["token"])
    client.get("/datasets")
    service.rows("SELECT pg_stat_force_next_flush()")

    def scans() -> int:
        row = service.rows(
            "SELECT seq_scan + coalesce(idx_scan, 0) AS n FROM pg_stat_user_tables WHERE relname = 'tokens'"
        )
        return int(row[0]["n"])

    time.sleep(1.5)  # the statistics of the API's own connections are flushed once a second
    client.get("/datasets")
    before = scans()
    for _ in range(50):
        assert client.get("/datasets").status_code == 200
    time.sleep(1.5)
    client.get("/jobs")
    assert scans() - before < 10
