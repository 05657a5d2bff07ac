"""People: users with their roles, the tokens that act for them, and the audit of what they changed."""

from collections.abc import Collection
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Identity, Index, LargeBinary, Select, Text, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, DatabaseTime, Key
from models.errors import LastAdmin, ReservedUser

ACCESS_CHANNEL = "trainyard_access"  # NOTIFY channel: a token, a role or a user has changed
FIRST_ADMIN = "admin"  # made by the first start
ANONYMOUS = "anonymous"  # whoever sends no token, where a setting allows that


class Role(StrEnum):
    """What a user may do at most."""

    MEMBER = "member"  # reads what the lab may read, changes what is their own
    ADMIN = "admin"  # reads and changes everything


class Scope(StrEnum):
    """What a token may be used for."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"  # users, other people's tokens, the audit


SCOPES_OF: dict[Role, frozenset[Scope]] = {
    Role.MEMBER: frozenset({Scope.READ, Scope.WRITE}),
    Role.ADMIN: frozenset(Scope),
}


def _one_of(values: type[StrEnum]) -> str:
    return ", ".join(f"'{value}'" for value in values)


class User(Base):
    """A person, or a script with a name of its own; never deleted, because jobs and the audit name them."""

    __tablename__ = "users"
    __table_args__ = (CheckConstraint(f"role IN ({_one_of(Role)})", "role"),)

    id: Mapped[Key]
    name: Mapped[str] = mapped_column(unique=True)
    role: Mapped[str] = mapped_column(default=Role.MEMBER.value)
    created_at: Mapped[DatabaseTime]
    disabled_at: Mapped[datetime | None] = mapped_column(default=None)

    @property
    def is_active_admin(self) -> bool:
        """Whether this user can administrate now."""
        return self.role == Role.ADMIN and self.disabled_at is None

    def change_role(self, role: Role, *, is_last_admin: bool) -> bool:
        """Take a role; return whether that changed anything. Raises LastAdmin, or ReservedUser for `anonymous`."""
        if role == self.role:
            return False
        if self.name == ANONYMOUS:
            raise ReservedUser(f"{ANONYMOUS} is whoever sends no token, and stays a member.")
        self._check_not_last(is_last_admin)
        self.role = role.value
        return True

    def disable(self, at: datetime, *, is_last_admin: bool) -> bool:
        """Refuse this user from now on; return whether that changed anything. Raises LastAdmin."""
        if self.disabled_at is not None:
            return False
        self._check_not_last(is_last_admin)
        self.disabled_at = at
        return True

    def enable(self) -> bool:
        """Let this user in again; return whether that changed anything."""
        was_disabled, self.disabled_at = self.disabled_at is not None, None
        return was_disabled

    def _check_not_last(self, is_last_admin: bool) -> None:
        if is_last_admin:
            raise LastAdmin(f"{self.name} is the last active admin.")

    def beyond_role(self, scopes: Collection[Scope]) -> frozenset[Scope]:
        """Return those of the scopes that the role does not allow."""
        return frozenset(scopes) - SCOPES_OF[Role(self.role)]


class Token(Base):
    """What a script shows instead of a password; of its secret only the SHA-256 is kept."""

    __tablename__ = "tokens"
    __table_args__ = (Index(None, "user_id", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)  # the public part: a UUIDv7 in 32 hexadecimal digits
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str]
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    created_at: Mapped[DatabaseTime]
    expires_at: Mapped[datetime | None] = mapped_column(default=None)
    revoked_at: Mapped[datetime | None] = mapped_column(default=None)
    last_used_at: Mapped[datetime | None] = mapped_column(default=None)

    def revoke(self, at: datetime) -> bool:
        """Let it work no more; return whether that changed anything."""
        if self.revoked_at is not None:
            return False
        self.revoked_at = at
        return True

    @property
    def prefix(self) -> str:
        """The part of the token's text that may be shown."""
        return f"ty_{self.id}"


class AuditEntry(Base):
    """One change that was made: by whom, with which token, in which request."""

    __tablename__ = "audit"
    __table_args__ = (Index(None, "user_id", "id"), Index(None, "subject", "id"))

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    at: Mapped[DatabaseTime]
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    token_id: Mapped[str | None] = mapped_column(ForeignKey("tokens.id"), default=None)
    action: Mapped[str]  # noun.verb
    subject: Mapped[str]  # noun:key
    request_id: Mapped[str]
    detail: Mapped[dict[str, Any]]


def access_changed() -> Select[Any]:
    """Return the statement that makes every API process, when its transaction commits, ask again who may do what."""
    return select(func.pg_notify(ACCESS_CHANNEL, ""))
