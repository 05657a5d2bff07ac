"""The route of the audit: who changed what, for admins."""

from typing import Annotated

from fastapi import APIRouter, Query

from api.access.caller import AdminDep
from api.audit import queries
from api.audit.schemas import AuditPage, AuditView
from api.paging import Limit, cut
from api.services import SessionDep
from api.strict_json import StrictRoute
from models.validation import Name

router = APIRouter(tags=["audit"], route_class=StrictRoute)

_After = Annotated[int, Query(ge=1, le=2**63 - 1)]


@router.get("/audit")
async def list_audit(
    caller: AdminDep,
    session: SessionDep,
    user: Name | None = None,
    action: Name | None = None,
    subject: Name | None = None,
    after: _After | None = None,
    limit: Limit = 20,
) -> AuditPage:
    """List changes, newest first; `user`, `action` (`job.cancel`) and `subject` (`job:<id>`) narrow the list."""
    found = await queries.page(session, user=user, action=action, subject=subject, after=after, limit=limit + 1)
    entries, last = cut(found, limit)
    items = [AuditView.of(entry, name) for entry, name in entries]
    return AuditPage(items=items, next=last[0].id if last else None)
