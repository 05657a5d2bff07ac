"""Who calls: a request's token becomes a `Caller`, and a route says by a parameter's type which scope it needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

import structlog
from fastapi import Request, Security
from fastapi.security.http import HTTPBase
from sqlalchemy import ColumnElement, and_

from api.access.known_tokens import Grant, TokenRefused
from api.access.loopback import is_from_this_machine
from api.access.rate_limits import RateLimits
from api.problems import ProblemError
from api.services import Services
from models.errors import NotYours
from models.job import Job
from models.user import Role, Scope


@dataclass(frozen=True)
class Caller:
    """Who makes a request, with which token, and what that allows."""

    user_id: UUID
    name: str
    role: Role
    scopes: frozenset[Scope]
    token_id: str | None
    request_id: str
    sees_lab: bool = True

    def may_read(self, owner: UUID) -> bool:
        """Whether what this owner has may be read."""
        return self.sees_lab or self.role is Role.ADMIN or owner == self.user_id

    def may_change(self, owner: UUID) -> bool:
        """Whether what this owner has may be changed: members change their own, admins everything."""
        return self.role is Role.ADMIN or owner == self.user_id

    def check_may_change(self, owner: UUID) -> None:
        """Raise NotYours where what this owner has may not be changed."""
        if not self.may_change(owner):
            raise NotYours("This belongs to another user; only they or an admin may change it.")

    def visible(self) -> ColumnElement[bool]:
        """Return the SQL condition on `jobs` for what may be read; of deleted ones there is nothing to be read."""
        there = Job.deleted_at.is_(None)
        return there if self.may_read_all else and_(there, Job.user_id == self.user_id)

    @property
    def may_read_all(self) -> bool:
        """Whether everybody's jobs may be read."""
        return self.sees_lab or self.role is Role.ADMIN


async def authenticated(request: Request) -> Caller:
    """Return who makes this request; raise ProblemError (401 `unauthenticated`, 429 `rate_limited`).

    It is counted once, however often it is asked; the answer will carry `RateLimit-*`, whatever it is.
    """
    state: dict[str, Any] = request.scope["state"]  # what `request.state` shows; this is on every request's way
    caller: Caller | None = state.get("caller")
    if caller is None:
        services: Services = request.app.state.services
        grant = await _grant(request, services)
        structlog.contextvars.bind_contextvars(user=grant.name, token=grant.token_id)
        state["extra_headers"] += _count(services.limits, grant)
        caller = state["caller"] = _as_caller(request, services, grant)
    return caller


async def caller_now(request: Request) -> Caller:
    """Return who makes a request that goes on for long, by what holds now; raise ProblemError (401 `unauthenticated`).

    It is not counted again.
    """
    services: Services = request.app.state.services
    return _as_caller(request, services, await _grant(request, services))


class _Needs(HTTPBase):
    """The caller of a route that needs a scope, or none; in the API's description, that it needs a token."""

    def __init__(self, scope: Scope | None = None, code: str = "insufficient_scope") -> None:
        super().__init__(scheme="bearer", scheme_name="token", description="A token: `ty_<id>_<secret>`.")
        self._scope = scope
        self._code = code

    async def __call__(self, request: Request) -> Caller:  # type: ignore[override]
        """Return the caller; raise ProblemError (401, 429, or 403 where the token has not the scope)."""
        caller = await authenticated(request)
        if self._scope is not None and self._scope not in caller.scopes:
            raise ProblemError(403, self._code, f"This needs a token with the scope `{self._scope}`.")
        return caller


CallerDep = Annotated[Caller, Security(_Needs())]
# The scopes are named once more for the description.
ReaderDep = Annotated[Caller, Security(_Needs(Scope.READ), scopes=[Scope.READ.value])]
WriterDep = Annotated[Caller, Security(_Needs(Scope.WRITE), scopes=[Scope.WRITE.value])]
AdminDep = Annotated[Caller, Security(_Needs(Scope.ADMIN, "admin_only"), scopes=[Scope.ADMIN.value])]


def _as_caller(request: Request, services: Services, grant: Grant) -> Caller:
    return Caller(
        user_id=grant.user_id,
        name=grant.name,
        role=grant.role,
        scopes=grant.scopes,
        token_id=grant.token_id,
        request_id=request.state.request_id,
        sees_lab=services.settings.jobs_visible == "lab",
    )


async def _grant(request: Request, services: Services) -> Grant:
    sent = [value.decode("latin-1") for name, value in request.scope["headers"] if name == b"authorization"]
    try:
        if not sent and services.settings.allow_anonymous and is_from_this_machine(request):
            return await services.tokens.anonymous_grant(request.state.request_id)
        return await services.tokens.grant(_token_text(sent))
    except TokenRefused as refused:
        challenge = 'Bearer error="invalid_token"' if sent else "Bearer"
        raise ProblemError(401, "unauthenticated", str(refused), {"WWW-Authenticate": challenge}) from None


def _token_text(sent: Sequence[str]) -> str:
    """Return the token in the values of the header `Authorization`; raise TokenRefused."""
    if not sent:
        raise TokenRefused("A token is needed: send `Authorization: Bearer <token>`.")
    scheme, _, text = sent[0].partition(" ")
    if len(sent) > 1 or scheme.lower() != "bearer":
        raise TokenRefused("One token is needed, as `Authorization: Bearer <token>`.")
    return text.strip()


def _count(limits: RateLimits, grant: Grant) -> list[tuple[bytes, bytes]]:
    """Count a request, and return the headers that say where the caller stands; raise ProblemError (429)."""
    standing = limits.take(grant.token_id or str(grant.user_id))
    headers = {
        "RateLimit-Limit": str(limits.burst),
        "RateLimit-Remaining": str(standing.remaining),
        "RateLimit-Reset": str(standing.reset_seconds),
        "RateLimit-Policy": limits.policy,
    }
    if standing.retry_after_seconds is not None:
        wait = str(standing.retry_after_seconds)
        detail = f"Too many requests; try again in {wait} s."
        raise ProblemError(429, "rate_limited", detail, headers | {"Retry-After": wait})
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]
