"""The routes of users: who am I, and, for admins, everybody."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from api.access.caller import AdminDep, CallerDep
from api.audit.queries import record
from api.codes import answers
from api.openapi import CREATED
from api.paging import Limit, cut
from api.services import ServicesDep, SessionDep
from api.strict_json import StrictRoute
from api.tokens import queries as tokens
from api.users import queries
from api.users.schemas import USER_NAME, Me, MyToken, NewUser, RateLimitView, UserChange, UserPage, UserView
from models.database import database_now
from models.errors import ReservedUser, UserNotFound
from models.share import DEFAULT_WEIGHT
from models.user import ANONYMOUS, Token

router = APIRouter(
    tags=["users"],
    route_class=StrictRoute,
)


def _user_name(name: str) -> str:
    if not re.match(USER_NAME, name, re.ASCII):
        raise UserNotFound("There is no such user.")
    return name


UserNameInPath = Annotated[str, Depends(_user_name)]


@router.get("/me")
async def get_me(caller: CallerDep, session: SessionDep, services: ServicesDep) -> Me:
    """Show who calls: user, role, scopes, the token's name and expiry, the rate limit, and the limits in the queue."""
    token = None if caller.token_id is None else await session.get_one(Token, caller.token_id)
    share = await queries.share_of(session, caller.user_id)
    limits = services.limits
    return Me(
        user=caller.name,
        role=caller.role,
        scopes=sorted(caller.scopes),
        token=MyToken.model_validate(token, from_attributes=True) if token else None,
        rate_limit=RateLimitView(requests_per_minute=limits.per_minute, burst=limits.burst),
        weight=share.weight if share else DEFAULT_WEIGHT,
        max_running=share.max_running if share else None,
        max_queued=services.settings.max_queued if share is None or share.max_queued is None else share.max_queued,
    )


@router.post("/users", status_code=201, responses=answers("user_exists", "reserved_user") | CREATED)
async def create_user(new: NewUser, caller: AdminDep, session: SessionDep, response: Response) -> UserView:
    """Make a user; `POST /tokens` with their name makes their first token."""
    if new.name == ANONYMOUS:
        raise ReservedUser(f"{ANONYMOUS} is whoever sends no token; take another name.")
    user = await queries.add_user(session, new.name, new.role)
    record(session, caller, "user.create", f"user:{new.name}", {"role": new.role})
    response.headers["Location"] = f"/users/{new.name}"
    return UserView.of(user, None)


@router.get("/users")
async def list_users(caller: AdminDep, session: SessionDep, after: str | None = None, limit: Limit = 20) -> UserPage:
    """List users by name; pass `next` as `after` for the following page."""
    users, last = cut(await queries.page(session, after=after, limit=limit + 1), limit)
    items = [UserView.of(user, share) for user, share in users]
    return UserPage(items=items, next=last[0].name if last else None)


@router.get("/users/{name}", responses=answers("user_not_found"))
async def get_user(name: UserNameInPath, caller: AdminDep, session: SessionDep) -> UserView:
    """Show a user."""
    user = await queries.user_named(session, name)
    return UserView.of(user, await queries.share_of(session, user.id))


@router.patch("/users/{name}", responses=answers("user_not_found", "last_admin", "reserved_user"))
async def change_user(
    name: UserNameInPath, change: UserChange, caller: AdminDep, session: SessionDep, services: ServicesDep
) -> UserView:
    """Change a user's role, disable or enable them, which their tokens follow at once, or their part in the queue."""
    user, is_last_admin = await queries.lock_with_admins(session, name)
    changed: dict[str, Any] = {}
    if change.role is not None and user.change_role(change.role, is_last_admin=is_last_admin):
        changed["role"] = change.role
    if change.disabled is True and user.disable(await database_now(session), is_last_admin=is_last_admin):
        changed["disabled"] = True
    if change.disabled is False and user.enable():
        changed["disabled"] = False
    if changed:
        await services.tokens.announce_change(session)
    if wanted := change.of_share():
        changed |= await queries.change_share(session, user.id, wanted)
    if changed:
        record(session, caller, "user.update", f"user:{name}", changed)
    return UserView.of(user, await queries.share_of(session, user.id))


@router.delete("/users/{name}", status_code=204, responses=answers("user_not_found", "last_admin"))
async def disable_user(name: UserNameInPath, caller: AdminDep, session: SessionDep, services: ServicesDep) -> None:
    """Disable a user and revoke all their tokens; their jobs and what they did stay."""
    user, is_last_admin = await queries.lock_with_admins(session, name)
    was_active = user.disable(await database_now(session), is_last_admin=is_last_admin)
    revoked = await tokens.revoke_all(session, user)
    if was_active or revoked:
        record(session, caller, "user.disable", f"user:{name}", {"revoked_tokens": revoked})
        await services.tokens.announce_change(session)
