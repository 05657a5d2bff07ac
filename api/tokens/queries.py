"""How tokens are made, read and revoked."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from api.access.token_text import TokenText
from api.tokens.schemas import LONGEST_DAYS, NewToken
from models.database import database_now
from models.errors import BadExpiry, ReservedUser, ScopeExceedsRole, TokenNotFound, TooManyTokens, UserDisabled
from models.user import ANONYMOUS, Scope, Token, User

_MAX_TOKENS = 100  # that work, of a user: each has a rate limit of its own


async def add_token(
    session: AsyncSession, owner: User, name: str, scopes: Collection[Scope], expires_at: datetime | None
) -> tuple[Token, TokenText]:
    """Make a token of this user and return it with its text, which is kept nowhere.

    Raises UserDisabled, ReservedUser, TooManyTokens, or ScopeExceedsRole; the user's row must be locked.
    """
    if owner.disabled_at is not None:
        raise UserDisabled(f"{owner.name} is disabled.")
    if owner.name == ANONYMOUS:
        raise ReservedUser(f"{ANONYMOUS} is whoever sends no token, and has none.")
    if await _count_working(session, owner) >= _MAX_TOKENS:
        raise TooManyTokens(f"{owner.name} has {_MAX_TOKENS} tokens that work; revoke one first.")
    if excess := owner.beyond_role(scopes):
        raise ScopeExceedsRole(f"{owner.name} is a {owner.role}: no scope {', '.join(sorted(excess))}.")
    text = TokenText.new()
    token = Token(id=text.id, user_id=owner.id, name=name, digest=text.digest, expires_at=expires_at)
    token.scopes = sorted(set(scopes))
    session.add(token)
    await session.flush()
    return token, text


async def expiry(session: AsyncSession, new: NewToken, maker_id: str | None) -> datetime | None:
    """Return when the new token is to expire, by the database's clock: never after the token that makes it.

    Raises BadExpiry.
    """
    now = await database_now(session)
    maker = None if maker_id is None else await session.get_one(Token, maker_id)
    latest = None if maker is None else maker.expires_at
    if new.expires_in_days is not None:
        wanted = now + timedelta(days=new.expires_in_days)
    elif new.expires_at is not None:
        wanted = new.expires_at
    else:
        return latest
    if not now < wanted <= now + timedelta(days=LONGEST_DAYS):
        raise BadExpiry(f"expires_at: it must lie in the future, at most {LONGEST_DAYS:,} days from now.")
    if latest is not None and wanted > latest:
        raise BadExpiry(f"It must not outlive the token that makes it, which ends at {latest.isoformat()}.")
    return wanted.astimezone(UTC)


async def _count_working(session: AsyncSession, owner: User) -> int:
    expired = Token.expires_at <= func.clock_timestamp()
    working = select(func.count()).where(Token.user_id == owner.id, Token.revoked_at.is_(None), expired.is_not(True))
    return (await session.scalars(working)).one()


async def page(session: AsyncSession, *, user: str | None, after: str | None, limit: int) -> list[tuple[Token, str]]:
    """Return at most `limit` tokens with their users' names, newest first, older than `after`."""
    query = select(Token, User.name).join(User, Token.user_id == User.id).order_by(Token.id.desc()).limit(limit)
    if user is not None:
        query = query.where(User.name == user)
    if after is not None:
        query = query.where(Token.id < after)
    return [(token, name) for token, name in await session.execute(query)]


async def lock_token(session: AsyncSession, token_id: str, *, owner: UUID | None) -> Token:
    """Return a token, locked until the transaction ends; raise TokenNotFound, also where it is not `owner`'s."""
    token = await session.get(Token, token_id, with_for_update={"key_share": True})
    if token is None or owner not in (None, token.user_id):
        raise TokenNotFound("There is no such token.")
    return token


async def revoke_all(session: AsyncSession, user: User) -> int:
    """Revoke every token of a user; return how many were not revoked before."""
    revoked = update(Token).where(Token.user_id == user.id, Token.revoked_at.is_(None))
    return len((await session.scalars(revoked.values(revoked_at=func.clock_timestamp()).returning(Token.id))).all())
