"""The routes of webhooks: make, list, change and delete them, and see what was delivered."""

from typing import Annotated, Any
from uuid import UUID

import httpx2
from fastapi import APIRouter, Depends, Path, Query, Response

from api.access.caller import ReaderDep, WriterDep
from api.audit.queries import record
from api.codes import answers
from api.idempotency import IDEMPOTENT, IdempotentRoute
from api.openapi import CREATED
from api.paging import Limit, cut
from api.path_ids import UuidText, uuid_in_path
from api.problems import ProblemError
from api.services import ServicesDep, SessionDep
from api.webhooks import queries
from api.webhooks.schemas import (
    DeliveryPage,
    DeliveryView,
    MadeWebhook,
    NewWebhook,
    WebhookChange,
    WebhookList,
    WebhookView,
)
from models.errors import DeliveryNotFound, WebhookDisabled, WebhookNotFound
from models.idempotency import forget_answer
from models.user import Scope
from models.webhook import Audience, Webhook

router = APIRouter(
    tags=["webhooks"],
    route_class=IdempotentRoute,
)

_MAX_BIGINT = 2**63 - 1
_REFUSALS = answers("admin_only", "too_many_webhooks", "webhook_host_not_allowed", "webhook_address_not_allowed")
_NOT_FOUND = answers("webhook_not_found")


def _webhook_id(webhook_id: UuidText) -> UUID:
    return uuid_in_path(webhook_id, WebhookNotFound("There is no such webhook: an id is a UUID."))


def _delivery_id(delivery_id: Annotated[str, Path(json_schema_extra={"format": "int64"})]) -> int:
    if not (delivery_id.isascii() and delivery_id.isdecimal() and len(delivery_id) < len(str(_MAX_BIGINT))):
        raise DeliveryNotFound("There is no such delivery: an id is a number.")
    return int(delivery_id)


WebhookId = Annotated[UUID, Depends(_webhook_id)]
DeliveryId = Annotated[int, Depends(_delivery_id)]


@router.post("/webhooks", status_code=201, dependencies=[IDEMPOTENT], responses=_REFUSALS | CREATED)
async def create_webhook(
    new: NewWebhook, caller: WriterDep, session: SessionDep, services: ServicesDep, response: Response
) -> MadeWebhook:
    """Make a webhook and show its secret, this once; its messages are signed as standardwebhooks.com describes."""
    if new.scope == "lab" and Scope.ADMIN not in caller.scopes:
        raise ProblemError(
            403, "admin_only", "Only an admin's token with the scope `admin` may follow everybody's jobs."
        )
    services.destinations.check(httpx2.URL(new.url))
    webhook = await queries.add_webhook(session, caller, new)
    record(session, caller, "webhook.create", f"webhook:{webhook.id}", {"url": webhook.url, "events": webhook.events})
    response.headers["Location"] = _path(webhook)
    response.headers["Cache-Control"] = "no-store"
    return MadeWebhook.with_secret(webhook, caller.name)


@router.get("/webhooks")
async def list_webhooks(
    caller: ReaderDep, session: SessionDep, after: UUID | None = None, limit: Limit = 20
) -> WebhookList:
    """List one's webhooks, newest first; for admins everybody's."""
    items, last = cut(await queries.page(session, caller, after=after, limit=limit + 1), limit)
    return WebhookList(items=items, next=last.id if last else None)


@router.get("/webhooks/{webhook_id}", responses=_NOT_FOUND)
async def get_webhook(webhook_id: WebhookId, caller: ReaderDep, session: SessionDep) -> WebhookView:
    """Show a webhook, without its secret."""
    return await queries.view(session, await queries.require_own(session, caller, webhook_id))


@router.patch("/webhooks/{webhook_id}", responses=_NOT_FOUND)
async def change_webhook(
    webhook_id: WebhookId, change: WebhookChange, caller: WriterDep, session: SessionDep
) -> WebhookView:
    """Change a webhook; enabling one sends what waited for it."""
    webhook = await queries.lock_webhook(session, caller, webhook_id)
    before = _changeable(webhook)
    if change.enabled is not None:
        webhook.enable(change.enabled)
    if change.events is not None:
        webhook.events = change.events
    if "filter" in change.model_fields_set:
        webhook.tag = change.filter.tag if change.filter is not None else None
    if "description" in change.model_fields_set:
        webhook.description = change.description
    changed = {name: value for name, value in _changeable(webhook).items() if value != before[name]}
    if changed:
        record(session, caller, "webhook.update", f"webhook:{webhook_id}", changed)
    return await queries.view(session, webhook)


@router.delete("/webhooks/{webhook_id}", status_code=204, responses=_NOT_FOUND)
async def delete_webhook(webhook_id: WebhookId, caller: WriterDep, session: SessionDep) -> None:
    """Delete a webhook with its deliveries and its secret; what has not been sent never will be."""
    webhook = await queries.lock_webhook(session, caller, webhook_id)
    record(session, caller, "webhook.delete", f"webhook:{webhook_id}", {"url": webhook.url})
    await session.execute(forget_answer(webhook.user_id, _path(webhook)))  # it shows the secret
    await session.delete(webhook)


@router.post("/webhooks/{webhook_id}/test", status_code=202, responses=answers("webhook_not_found", "webhook_disabled"))
async def test_webhook(webhook_id: WebhookId, caller: WriterDep, session: SessionDep) -> DeliveryView:
    """Send a `webhook.ping`; what comes of it is in the deliveries."""
    webhook = await queries.lock_webhook(session, caller, webhook_id)
    _require_enabled(webhook)
    record(session, caller, "webhook.test", f"webhook:{webhook_id}")
    return await queries.add_ping(session, webhook)


@router.get("/webhooks/{webhook_id}/deliveries", responses=_NOT_FOUND)
async def list_deliveries(
    webhook_id: WebhookId,
    caller: ReaderDep,
    session: SessionDep,
    after: Annotated[int | None, Query(ge=1, le=_MAX_BIGINT)] = None,
    limit: Limit = 20,
) -> DeliveryPage:
    """List what was, and is to be, delivered in the last 30 days, newest first, with every try."""
    webhook = await queries.require_own(session, caller, webhook_id)
    items, last = cut(await queries.deliveries(session, webhook, after=after, limit=limit + 1), limit)
    return DeliveryPage(items=items, next=last.id if last else None)


@router.post(
    "/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver",
    status_code=202,
    responses=answers("admin_only", "webhook_not_found", "delivery_not_found", "webhook_disabled"),
)
async def redeliver_message(
    webhook_id: WebhookId, delivery_id: DeliveryId, caller: WriterDep, session: SessionDep
) -> DeliveryView:
    """Send a message once more, with the same id, and try again as often as the first time."""
    webhook = await queries.lock_webhook(session, caller, webhook_id)
    if webhook.scope == Audience.LAB and Scope.ADMIN not in caller.scopes:
        raise ProblemError(403, "admin_only", "Messages about the lab's jobs are sent again by admins only.")
    _require_enabled(webhook)
    delivery = await queries.lock_delivery(session, webhook, delivery_id)
    delivery.again()
    await session.flush()
    await session.refresh(delivery)
    record(session, caller, "webhook.redeliver", f"webhook:{webhook_id}", {"delivery": delivery_id})
    return (await queries.delivery_views(session, [delivery]))[0]


def _path(webhook: Webhook) -> str:
    return f"/webhooks/{webhook.id}"


def _changeable(webhook: Webhook) -> dict[str, Any]:
    return {name: getattr(webhook, name) for name in ("enabled", "events", "tag", "description")}


def _require_enabled(webhook: Webhook) -> None:
    if not webhook.enabled:
        raise WebhookDisabled("The webhook is disabled; enable it first.")
