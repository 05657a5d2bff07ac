"""How webhooks and their deliveries are made and read."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from api.access.caller import Caller
from api.webhooks.messages import new_secret
from api.webhooks.schemas import DeliveryView, NewWebhook, WebhookView
from models.errors import DeliveryNotFound, TooManyWebhooks, WebhookNotFound
from models.user import Scope, User
from models.webhook import PING, Delivery, DeliveryAttempt, Webhook

_MAX_WEBHOOKS = 20  # of one user: each is looked at for every change of status


async def add_webhook(session: AsyncSession, caller: Caller, new: NewWebhook) -> Webhook:
    """Make a webhook of the caller's, with a secret; raise TooManyWebhooks."""
    # The user's row is locked, so that two requests at once do not both become the last.
    await session.get(User, caller.user_id, with_for_update={"key_share": True})
    count = await session.scalar(select(func.count()).select_from(Webhook).where(Webhook.user_id == caller.user_id))
    if (count or 0) >= _MAX_WEBHOOKS:
        raise TooManyWebhooks(f"A user may have {_MAX_WEBHOOKS} webhooks; delete one first.")
    webhook = Webhook(
        user_id=caller.user_id,
        url=new.url,
        events=new.events,
        scope=new.scope,
        tag=new.filter.tag,
        description=new.description,
        secret=new_secret(),
    )
    session.add(webhook)
    await session.flush()
    return webhook


async def lock_webhook(session: AsyncSession, caller: Caller, webhook_id: UUID) -> Webhook:
    """Return a webhook, locked until the transaction ends; raise WebhookNotFound, also where it is another's."""
    webhook = await session.get(Webhook, webhook_id, with_for_update={"key_share": True})
    return _found(webhook, caller, webhook_id)


async def require_own(session: AsyncSession, caller: Caller, webhook_id: UUID) -> Webhook:
    """Return a webhook of the caller's, for admins any; raise WebhookNotFound."""
    return _found(await session.get(Webhook, webhook_id), caller, webhook_id)


async def view(session: AsyncSession, webhook: Webhook) -> WebhookView:
    """Show a webhook."""
    owner = await session.get_one(User, webhook.user_id)
    return WebhookView.of(webhook, owner.name)


async def page(session: AsyncSession, caller: Caller, *, after: UUID | None, limit: int) -> list[WebhookView]:
    """Show at most `limit` webhooks of the caller's, for admins everybody's, newest first, older than `after`."""
    query = select(Webhook, User.name).join(User, User.id == Webhook.user_id).order_by(Webhook.id.desc()).limit(limit)
    if Scope.ADMIN not in caller.scopes:
        query = query.where(Webhook.user_id == caller.user_id)
    if after is not None:
        query = query.where(Webhook.id < after)
    return [WebhookView.of(webhook, user) for webhook, user in await session.execute(query)]


async def add_ping(session: AsyncSession, webhook: Webhook) -> DeliveryView:
    """Have a ping delivered."""
    delivery = Delivery(webhook_id=webhook.id, event=PING)
    session.add(delivery)
    await session.flush()
    await session.refresh(delivery)
    return DeliveryView.of(delivery, [])


async def lock_delivery(session: AsyncSession, webhook: Webhook, delivery_id: int) -> Delivery:
    """Return a delivery of the webhook, locked until the transaction ends; raise DeliveryNotFound."""
    delivery = await session.get(Delivery, delivery_id, with_for_update={"key_share": True})
    if delivery is None or delivery.webhook_id != webhook.id:
        raise DeliveryNotFound(f"The webhook has no delivery {delivery_id}.")
    return delivery


async def deliveries(session: AsyncSession, webhook: Webhook, *, after: int | None, limit: int) -> list[DeliveryView]:
    """Show at most `limit` deliveries of the webhook, newest first, older than `after`."""
    query = select(Delivery).where(Delivery.webhook_id == webhook.id).order_by(Delivery.id.desc()).limit(limit)
    if after is not None:
        query = query.where(Delivery.id < after)
    return await delivery_views(session, (await session.scalars(query)).all())


async def delivery_views(session: AsyncSession, found: Sequence[Delivery]) -> list[DeliveryView]:
    """Show deliveries with their tries."""
    attempts: dict[int, list[DeliveryAttempt]] = {delivery.id: [] for delivery in found}
    rows = await session.scalars(
        select(DeliveryAttempt).where(DeliveryAttempt.delivery_id.in_(attempts)).order_by(DeliveryAttempt.number)
    )
    for row in rows:
        attempts[row.delivery_id].append(row)
    return [DeliveryView.of(delivery, attempts[delivery.id]) for delivery in found]


def _found(webhook: Webhook | None, caller: Caller, webhook_id: UUID) -> Webhook:
    # Another's webhook does not exist: its URL may hold a secret of the receiver's.
    if webhook is None or (webhook.user_id != caller.user_id and Scope.ADMIN not in caller.scopes):
        raise WebhookNotFound(f"There is no webhook {webhook_id}.")
    return webhook
