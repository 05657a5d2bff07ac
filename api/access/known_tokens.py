"""What tokens allow, asked of the database once and then known: a request costs one look-up and one comparison."""

import asyncio
import time
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Interval, cast, event, extract, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from uuid_utils.compat import uuid7

from api.access.token_text import TokenText
from api.deadline import within_limit
from models.user import ANONYMOUS, SCOPES_OF, AuditEntry, Role, Scope, Token, User, access_changed

_FRESH_SECONDS = 60.0  # bounds what a lost notification can do, and how often a use is written
_MOST_KNOWN = 10_000
_LOOKUPS = 2  # at once: a flood of unknown tokens leaves the other connections alone


class TokenRefused(Exception):
    """The request is nobody's; the message is a sentence for whoever sent it."""


@dataclass(frozen=True)
class Grant:
    """What a token allows: its scopes, less those that its user's role does not have."""

    user_id: UUID
    name: str
    role: Role
    scopes: frozenset[Scope]
    token_id: str | None = None
    token_name: str | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True)
class _Known:
    """A row as it was read; times are this process's, monotonic."""

    grant: Grant
    digest: bytes
    refusal: str | None
    ends: float
    fresh_until: float


class KnownTokens:
    """A cache that is used only while this process hears of every change."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession]) -> None:
        """Nothing is kept until `hear` says that changes are heard of."""
        self._sessions = sessions
        self._known: dict[str, _Known] = {}
        self._hears = False
        self._generation = 0  # what was read before a change is not kept after it
        self._lookups = asyncio.Semaphore(_LOOKUPS)

    def hear(self, hears: bool) -> None:
        """Say whether changes are heard of from now on."""
        self._hears = hears
        self.forget()

    def forget(self, _payload: str = "") -> None:
        """Forget everything: something has changed."""
        self._generation += 1
        self._known.clear()

    async def announce_change(self, session: AsyncSession) -> None:
        """Make every process forget when this transaction commits; this one before its answer is sent."""
        await session.execute(access_changed())
        event.listen(session.sync_session, "after_commit", lambda _session: self.forget(), once=True)

    async def grant(self, text: str) -> Grant:
        """Return what the token with this text allows; raise TokenRefused where it does not work."""
        token = TokenText.read(text)
        if token is None:
            raise TokenRefused("This is no token: one reads ty_<id>_<secret>.")
        known = self._fresh(token.id) or await self._read(token)
        if known is None or not token.matches(known.digest):
            raise TokenRefused("There is no such token.")
        # Only who knows the secret is told more.
        if known.refusal is not None:
            raise TokenRefused(known.refusal)
        if time.monotonic() >= known.ends:
            raise TokenRefused("The token has expired.")
        return known.grant

    async def anonymous_grant(self, request_id: str) -> Grant:
        """Return what somebody without a token may do: what any member may; raise TokenRefused if that is disabled.

        The first request makes the user whose rights these are.
        """
        known = self._fresh(ANONYMOUS) or await self._read_anonymous(request_id)
        if known.refusal is not None:
            raise TokenRefused(known.refusal)
        return known.grant

    def _fresh(self, key: str) -> _Known | None:
        known = self._known.get(key)
        return known if known is not None and time.monotonic() < known.fresh_until else None

    def _keep(self, key: str, known: _Known, generation: int) -> None:
        if self._hears and generation == self._generation:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[key] = known

    async def _read(self, token: TokenText) -> _Known | None:
        """Ask the database, and write down that the token was used."""
        async with within_limit(), self._lookups:
            if (known := self._fresh(token.id)) is not None:  # read for another request while this one waited
                return known
            generation = self._generation
            async with self._sessions.begin() as session:
                query = select(Token, User, _seconds_left(), _use_is_old()).join(User, Token.user_id == User.id)
                row = (await session.execute(query.where(Token.id == token.id))).one_or_none()
                if row is None:
                    return None
                known = _as_known(row[0], row[1], row[2])
                if row[3] and known.refusal is None and token.matches(known.digest):
                    # The condition again: another process may have been first.
                    used = update(Token).where(Token.id == token.id, _use_is_old())
                    await session.execute(used.values(last_used_at=func.clock_timestamp()))
            self._keep(token.id, known, generation)
        return known

    async def _read_anonymous(self, request_id: str) -> _Known:
        """Ask the database for the user that acts for whoever sends no token; make it at its first use."""
        async with within_limit(), self._lookups:
            generation = self._generation
            async with self._sessions.begin() as session:
                query = select(User).where(User.name == ANONYMOUS)
                user = await session.scalar(query)
                if user is None:
                    await _make_anonymous(session, request_id)
                    user = (await session.scalars(query)).one()
            refusal = None if user.disabled_at is None else "A token is needed: anonymous use is disabled."
            grant = Grant(user.id, user.name, Role.MEMBER, SCOPES_OF[Role.MEMBER])
            known = _Known(grant, b"", refusal, float("inf"), time.monotonic() + _FRESH_SECONDS)
            self._keep(ANONYMOUS, known, generation)
        return known


async def _make_anonymous(session: AsyncSession, request_id: str) -> None:
    """Make the user, unless another process has just made it; the record says that it made itself."""
    values = {"id": uuid7(), "name": ANONYMOUS, "role": Role.MEMBER}
    made = insert(User).values(values).on_conflict_do_nothing(index_elements=["name"]).returning(User.id)
    user_id = await session.scalar(made)
    if user_id is not None:
        entry = AuditEntry(user_id=user_id, action="user.create", subject=f"user:{ANONYMOUS}", request_id=request_id)
        entry.detail = {"role": Role.MEMBER}
        session.add(entry)


def _as_known(token: Token, user: User, seconds_left: Decimal | None) -> _Known:
    refusal = None
    if token.revoked_at is not None:
        refusal = "The token is revoked."
    elif user.disabled_at is not None:
        refusal = "The user of this token is disabled."
    role, now = Role(user.role), time.monotonic()
    grant = Grant(
        user.id,
        user.name,
        role,
        frozenset(map(Scope, token.scopes)) & SCOPES_OF[role],
        token.id,
        token.name,
        token.expires_at,
    )
    ends = float("inf") if seconds_left is None else now + float(seconds_left)
    return _Known(grant, token.digest, refusal, ends, now + _FRESH_SECONDS)


def _seconds_left() -> ColumnElement[Any]:
    """Seconds until the token expires, by the database's clock; null where it never does."""
    return extract("epoch", Token.expires_at - func.clock_timestamp())


def _use_is_old() -> ColumnElement[bool]:
    """Whether the last use that was written is a minute old, or none was."""
    minute = cast("1 minute", Interval)
    return or_(Token.last_used_at.is_(None), Token.last_used_at < func.clock_timestamp() - minute)
