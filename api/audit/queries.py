"""How changes are recorded, and how the record is read."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from api.access.caller import Caller
from models.user import AuditEntry, User


def record(
    session: AsyncSession, caller: Caller, action: str, subject: str, detail: dict[str, Any] | None = None
) -> None:
    """Record a change with the transaction that makes it.

    `action` is `<noun>.<verb>`, `subject` is `<noun>:<key>`; `detail` says what a reader cannot see elsewhere.
    """
    entry = AuditEntry(user_id=caller.user_id, token_id=caller.token_id, action=action, subject=subject)
    entry.request_id, entry.detail = caller.request_id, detail or {}
    session.add(entry)


async def page(
    session: AsyncSession,
    *,
    user: str | None,
    action: str | None,
    subject: str | None,
    after: int | None,
    limit: int,
) -> list[tuple[AuditEntry, str]]:
    """Return at most `limit` entries with their users' names, newest first, older than `after`."""
    query = select(AuditEntry, User.name).join(User, AuditEntry.user_id == User.id)
    wanted = {User.name: user, AuditEntry.action: action, AuditEntry.subject: subject}
    query = query.where(*(column == value for column, value in wanted.items() if value is not None))
    if after is not None:
        query = query.where(AuditEntry.id < after)
    found = await session.execute(query.order_by(AuditEntry.id.desc()).limit(limit))
    return [(entry, name) for entry, name in found]
