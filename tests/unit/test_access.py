"""The rules of access: the text of a token, roles, scopes, the last admin, the rate limit, and what is this machine."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from api.access.caller import Caller
from api.access.loopback import is_from_this_machine, is_loopback
from api.access.rate_limits import RateLimits
from api.access.token_text import TokenText
from models.errors import LastAdmin, NotYours, ReservedUser
from models.user import ANONYMOUS, SCOPES_OF, Role, Scope, Token, User

NOW = datetime(2026, 11, 21, tzinfo=UTC)
ONE, OTHER = UUID(int=1), UUID(int=2)


def user(role: Role, *, name: str = "ada", disabled: bool = False) -> User:
    return User(id=ONE, name=name, role=role.value, disabled_at=NOW if disabled else None)


def caller(role: Role, *, sees_lab: bool = True) -> Caller:
    return Caller(ONE, "ada", role, SCOPES_OF[role], "0" * 32, "request", sees_lab)


def test_a_token_is_read_as_it_was_written_and_its_parts_have_no_underscore() -> None:
    token = TokenText.new()
    assert TokenText.read(str(token)) == token
    assert str(token).split("_") == ["ty", token.id, token.secret]
    assert len(token.secret) == 64, "256 bits"
    assert token.matches(TokenText(token.id, token.secret).digest)
    assert not token.matches(TokenText.new().digest)


def test_a_token_that_is_shown_by_accident_keeps_its_secret() -> None:
    token = TokenText.new()
    assert token.secret not in repr(token)
    assert token.secret not in f"{[token]} {token!r}"


def test_two_tokens_share_neither_id_nor_secret_and_ids_are_in_the_order_of_time() -> None:
    tokens = [TokenText.new() for _ in range(100)]
    assert len({token.secret for token in tokens}) == 100
    ids = [token.id for token in tokens]
    assert ids == sorted(set(ids))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ty_",
        "ty__",
        f"ty_{'0' * 32}",
        f"ty_{'0' * 32}_{'0' * 63}",
        f"ty_{'0' * 32}_{'0' * 65}",
        f"TY_{'0' * 32}_{'0' * 64}",
        f"ty_{'0' * 32}_{'A' * 64}",
        f"ty_{'0' * 32}_{'0' * 64}\n",
        f"ty_{'٣' * 32}_{'0' * 64}",
        f"sk_{'0' * 32}_{'0' * 64}",
        "x" * 100_000,
    ],
)
def test_what_is_no_token_is_not_taken_for_one(text: str) -> None:
    assert TokenText.read(text) is None


def test_a_role_allows_scopes_and_no_others() -> None:
    assert user(Role.MEMBER).beyond_role(list(Scope)) == {Scope.ADMIN}
    assert user(Role.MEMBER).beyond_role([Scope.READ, Scope.WRITE]) == set()
    assert user(Role.ADMIN).beyond_role(list(Scope)) == set()


@pytest.mark.parametrize("change", [lambda u: u.disable(NOW, is_last_admin=True), lambda u: _demote(u, last=True)])
def test_the_last_admin_stays_one(change: Any) -> None:
    admin = user(Role.ADMIN)
    with pytest.raises(LastAdmin):
        change(admin)
    assert admin.is_active_admin


def test_an_admin_beside_another_can_be_disabled_demoted_and_enabled() -> None:
    admin = user(Role.ADMIN)
    assert admin.disable(NOW, is_last_admin=False)
    assert not admin.disable(NOW, is_last_admin=False), "a second time changes nothing"
    assert not admin.is_active_admin
    assert admin.enable()
    assert not admin.enable()
    assert _demote(admin, last=False)
    assert admin.role == "member"


def test_whoever_sends_no_token_never_becomes_an_admin() -> None:
    with pytest.raises(ReservedUser):
        user(Role.MEMBER, name=ANONYMOUS).change_role(Role.ADMIN, is_last_admin=False)


def test_a_token_is_revoked_once() -> None:
    token = Token(id="0" * 32)
    assert token.revoke(NOW)
    assert not token.revoke(datetime.now(UTC))
    assert token.revoked_at == NOW


@pytest.mark.parametrize(
    ("role", "sees_lab", "reads_foreign", "changes_foreign"),
    [
        (Role.MEMBER, True, True, False),
        (Role.MEMBER, False, False, False),
        (Role.ADMIN, True, True, True),
        (Role.ADMIN, False, True, True),
    ],
)
def test_members_change_their_own_and_read_what_the_lab_allows(
    role: Role, sees_lab: bool, reads_foreign: bool, changes_foreign: bool
) -> None:
    who = caller(role, sees_lab=sees_lab)
    assert (who.may_read(OTHER), who.may_change(OTHER)) == (reads_foreign, changes_foreign)
    assert (who.may_read(ONE), who.may_change(ONE)) == (True, True)
    assert ("user_id" in str(who.visible())) is not reads_foreign, "a list is narrowed just where a job would be hidden"
    if not changes_foreign:
        with pytest.raises(NotYours):
            who.check_may_change(OTHER)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_is_allowed_and_then_as_many_as_the_rate() -> None:
    clock = Clock()
    limits = RateLimits(per_minute=60, burst=3, clock=clock)
    assert [limits.take("a").remaining for _ in range(3)] == [2, 1, 0]
    refused = limits.take("a")
    assert (refused.remaining, refused.reset_seconds, refused.retry_after_seconds) == (0, 3, 1)
    assert limits.take("b").retry_after_seconds is None, "others have buckets of their own"
    clock.now = 1.0
    assert limits.take("a").retry_after_seconds is None
    assert limits.take("a").retry_after_seconds == 1
    clock.now = 1_000.0
    assert limits.take("a").remaining == 2, "it never holds more than a burst"


def test_a_refused_request_costs_nothing_and_a_slow_rate_says_how_long_to_wait() -> None:
    clock = Clock()
    limits = RateLimits(per_minute=2, burst=1, clock=clock)
    limits.take("a")
    assert [limits.take("a").retry_after_seconds for _ in range(3)] == [30, 30, 30]
    clock.now = 29.0
    assert limits.take("a").retry_after_seconds == 1
    clock.now = 30.0
    assert limits.take("a").retry_after_seconds is None


def test_the_memory_of_the_rate_limit_is_bounded() -> None:
    limits = RateLimits(per_minute=60, burst=3)
    for number in range(10_001):
        limits.take(str(number))
    assert len(limits._buckets) <= 10_000


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("lab.example.org", False),
        ("localhost.evil.example", False),
        ("", False),
    ],
)
def test_a_loopback_address_is_told_from_others(host: str, ours: bool) -> None:
    assert is_loopback(host) is ours


@pytest.mark.parametrize(
    ("headers", "client", "ours"),
    [
        ({"host": "127.0.0.1:8000"}, "127.0.0.1", True),
        ({"host": "localhost"}, "127.0.0.1", True),
        ({"host": "[::1]:8000"}, "::1", True),
        ({"host": "localhost:8000", "origin": "http://localhost:8000"}, "127.0.0.1", True),
        ({"host": "localhost:8000"}, "10.0.0.7", False),
        ({"host": "localhost:8000"}, None, False),
        ({"host": "trainyard.evil.example"}, "127.0.0.1", False),
        ({"host": "[::1"}, "127.0.0.1", False),
        ({}, "127.0.0.1", False),
        ({"host": "localhost:8000", "origin": "https://evil.example"}, "127.0.0.1", False),
        ({"host": "localhost:8000", "origin": "http://localhost:3000"}, "127.0.0.1", False),
        ({"host": "localhost:8000", "origin": "null"}, "127.0.0.1", False),
        ({"host": "localhost:8000", "x-forwarded-for": "10.0.0.7"}, "127.0.0.1", False),
        ({"host": "localhost:8000", "x-forwarded-proto": "https"}, "127.0.0.1", False),
        ({"host": "localhost:8000", "via": "1.1 proxy"}, "127.0.0.1", False),
    ],
)
def test_a_foreign_page_or_a_proxy_is_not_this_machine(headers: dict[str, str], client: str | None, ours: bool) -> None:
    request: Any = SimpleNamespace(headers=headers, client=SimpleNamespace(host=client) if client else None)
    assert is_from_this_machine(request) is ours


def _demote(who: User, *, last: bool) -> bool:
    return who.change_role(Role.MEMBER, is_last_admin=last)
