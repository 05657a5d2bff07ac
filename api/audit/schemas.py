"""What is shown of the audit."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel

from models.user import AuditEntry


class AuditView(BaseModel):
    """One change: when, by whom, with which token (its prefix), what, and in which request."""

    id: int
    at: datetime
    user: str
    token: str | None
    action: str
    subject: str
    request_id: str
    detail: dict[str, Any]

    @classmethod
    def of(cls, entry: AuditEntry, user: str) -> "AuditView":
        """Show what this user did."""
        return cls(
            id=entry.id,
            at=entry.at,
            user=user,
            token=f"ty_{entry.token_id}" if entry.token_id else None,
            action=entry.action,
            subject=entry.subject,
            request_id=entry.request_id,
            detail=entry.detail,
        )


class AuditPage(BaseModel):
    """Changes, newest first; `next` is the `after` of the following page, null at the end."""

    items: list[AuditView]
    next: int | None
