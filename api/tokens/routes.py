"""The routes of tokens: make one, list them, revoke one."""

import re
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from api.access.caller import Caller, ReaderDep, WriterDep
from api.audit.queries import record
from api.codes import answers
from api.openapi import CREATED
from api.paging import Limit, cut
from api.problems import ProblemError, bad_header
from api.services import ServicesDep, SessionDep
from api.strict_json import StrictRoute
from api.tokens import queries
from api.tokens.schemas import MadeToken, NewToken, TokenPage, TokenView
from api.users.queries import lock_user
from models.database import database_now
from models.errors import TokenNotFound
from models.user import Scope


def _never_stored(response: Response) -> None:
    response.headers["Cache-Control"] = "no-store"


async def _takes_no_key(request: Request) -> None:
    # The answer would have to be stored, and it holds a secret.
    if "idempotency-key" in request.headers:
        message = "A token is shown once and not stored, so this cannot be answered again; send it without a key"
        raise bad_header("Idempotency-Key", message, "unsupported_header")


router = APIRouter(
    tags=["tokens"],
    route_class=StrictRoute,
    dependencies=[Depends(_never_stored)],
)

_REFUSALS = answers(
    "invalid_request",
    "admin_only",
    "user_not_found",
    "user_disabled",
    "reserved_user",
    "too_many_tokens",
    "scope_exceeds_role",
    "bad_expiry",
)


def _token_id(token_id: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{32}", token_id):
        raise TokenNotFound("There is no such token.")
    return token_id


TokenId = Annotated[str, Depends(_token_id)]


@router.post("/tokens", status_code=201, dependencies=[Depends(_takes_no_key)], responses=_REFUSALS | CREATED)
async def create_token(new: NewToken, caller: WriterDep, session: SessionDep, response: Response) -> MadeToken:
    """Make a token and show its text, this once. It may do no more than its user and the token that makes it.

    An `Idempotency-Key` is refused: the text is not stored, and cannot be shown again.
    """
    _check_owner(caller, new.user)
    if excess := set(new.scopes) - caller.scopes:
        raise ProblemError(403, "insufficient_scope", f"Your own token has no scope {', '.join(sorted(excess))}.")
    owner = await lock_user(session, new.user or caller.name)
    expires_at = await queries.expiry(session, new, caller.token_id)
    token, text = await queries.add_token(session, owner, new.name, new.scopes, expires_at)
    detail = {"user": owner.name, "name": token.name, "scopes": token.scopes}
    record(session, caller, "token.create", f"token:{token.id}", detail)
    response.headers["Location"] = f"/tokens/{token.id}"
    return MadeToken.with_text(token, owner.name, str(text))


@router.get("/tokens", responses=answers("admin_only"))
async def list_tokens(
    caller: ReaderDep, session: SessionDep, user: str | None = None, after: str | None = None, limit: Limit = 20
) -> TokenPage:
    """List tokens, newest first: one's own; for admins everybody's, or those of `user`."""
    _check_owner(caller, user)
    whose = user if Scope.ADMIN in caller.scopes else caller.name
    tokens, last = cut(await queries.page(session, user=whose, after=after, limit=limit + 1), limit)
    return TokenPage(items=[TokenView.of(token, name) for token, name in tokens], next=last[0].id if last else None)


@router.delete("/tokens/{token_id}", status_code=204, responses=answers("token_not_found"))
async def revoke_token(token_id: TokenId, caller: WriterDep, session: SessionDep, services: ServicesDep) -> None:
    """Revoke a token, at once and for good; a second time changes nothing."""
    owner = None if Scope.ADMIN in caller.scopes else caller.user_id
    token = await queries.lock_token(session, token_id, owner=owner)
    if token.revoke(await database_now(session)):
        record(session, caller, "token.revoke", f"token:{token.id}", {"name": token.name})
        await services.tokens.announce_change(session)


def _check_owner(caller: Caller, user: str | None) -> None:
    if user not in (None, caller.name) and Scope.ADMIN not in caller.scopes:
        raise ProblemError(403, "admin_only", "Only an admin's token with the scope `admin` reaches another user's.")
