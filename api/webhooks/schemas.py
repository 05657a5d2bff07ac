"""What is sent to make or change a webhook, and what is shown of one and of its deliveries."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import httpx2
from pydantic import AfterValidator, BaseModel, Field, StringConstraints
from pydantic_core import PydanticCustomError

from models.job import Status
from models.validation import Name, Strict, Tag
from models.webhook import Audience, Delivery, DeliveryAttempt, DeliveryStatus, Webhook, event_of

_LONGEST_URL = 2_048
_EVENTS = frozenset(event_of(status) for status in Status)
# What a name or an address in a URL consists of; no name has an empty part, or one of more than 63 characters.
_HOST = re.compile(r"([a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?|[0-9a-f:.]+", re.ASCII)


def _plain(url: str) -> str:
    """Refuse what two readers of URLs might read in two ways."""
    if not re.fullmatch(r"https?://[!-~]+", url) or "\\" in url:
        raise PydanticCustomError("url_format", "Input should be a URL with http:// or https://, in plain ASCII")
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError):
        raise PydanticCustomError("url_format", "Input should be a URL") from None
    if "@" in url.partition("//")[2].partition("/")[0] or parsed.userinfo:
        raise PydanticCustomError("url_format", "A webhook's URL may not hold a user name or a password")
    if not _HOST.fullmatch(parsed.host) or not (parsed.port is None or 0 < parsed.port < 2**16):
        raise PydanticCustomError("url_format", "Input should be a URL with a host's name or address, and a port")
    if parsed.fragment:
        raise PydanticCustomError("url_format", "A webhook's URL may not have a fragment")
    return url


def _known(events: list[str]) -> list[str]:
    for event in events:
        if event not in _EVENTS:
            raise PydanticCustomError("unknown_event", "There is no such event; there is " + ", ".join(sorted(_EVENTS)))
    return sorted(set(events))


Url = Annotated[str, StringConstraints(max_length=_LONGEST_URL), AfterValidator(_plain)]
Event = Annotated[str, Field(json_schema_extra={"enum": sorted(_EVENTS)})]
Events = Annotated[list[Event], Field(min_length=1, max_length=len(_EVENTS)), AfterValidator(_known)]


class Filter(Strict):
    """Which jobs' events are told."""

    tag: Tag | None = Field(default=None, description="Of jobs with this tag alone")


class NewWebhook(Strict):
    """A webhook to be made; `lab` tells of everybody's jobs, and is for admins."""

    url: Url
    events: Events
    scope: Literal["own", "lab"] = "own"
    filter: Filter = Filter()
    description: Name | None = None


class WebhookChange(Strict):
    """What is to change; what is left out stays, and null ends a filter or a description.

    Enabling forgets earlier failures.
    """

    enabled: bool | None = None
    events: Events | None = None
    filter: Filter | None = None
    description: Name | None = None


class WebhookView(BaseModel):
    """A webhook; `disabled_reason` says why the service itself disabled it."""

    id: UUID
    user: str
    url: str
    events: list[str]
    scope: Audience
    filter: Filter
    description: str | None
    enabled: bool
    disabled_reason: str | None
    created_at: datetime

    @classmethod
    def of(cls, webhook: Webhook, user: str) -> "WebhookView":
        """Show a webhook of this user."""
        return cls(**_shown(webhook, user))


class MadeWebhook(WebhookView):
    """A webhook that was just made. `secret` signs its messages, and is shown this once."""

    secret: str

    @classmethod
    def with_secret(cls, webhook: Webhook, user: str) -> "MadeWebhook":
        """Show a new webhook of this user."""
        return cls(**_shown(webhook, user), secret=webhook.secret)


class WebhookList(BaseModel):
    """Webhooks, newest first; `next` is the `after` of the following page, null at the end."""

    items: list[WebhookView]
    next: UUID | None


class AttemptView(BaseModel):
    """One try; `error` is null where the receiver answered with a 2xx, `answer` begins what it answered."""

    number: int
    at: datetime
    status_code: int | None
    error: str | None
    answer: str | None
    seconds: float


class DeliveryView(BaseModel):
    """One event for the webhook and every try to deliver it; `message_id` is what the receiver knows it by."""

    id: int
    message_id: str
    event: str
    job_id: UUID | None
    status: DeliveryStatus
    created_at: datetime
    next_attempt_at: datetime | None
    attempts: list[AttemptView]

    @classmethod
    def of(cls, delivery: Delivery, attempts: Sequence[DeliveryAttempt]) -> "DeliveryView":
        """Show a delivery with its tries in order."""
        status = DeliveryStatus(delivery.status)
        return cls(
            id=delivery.id,
            message_id=delivery.message_id,
            event=delivery.event,
            job_id=delivery.job_id,
            status=status,
            created_at=delivery.created_at,
            next_attempt_at=delivery.due_at if status is DeliveryStatus.PENDING else None,
            attempts=[AttemptView.model_validate(attempt, from_attributes=True) for attempt in attempts],
        )


class DeliveryPage(BaseModel):
    """Deliveries, newest first; `next` is the `after` of the following page, null at the end."""

    items: list[DeliveryView]
    next: int | None


def _shown(webhook: Webhook, user: str) -> dict[str, Any]:
    fields = ("id", "url", "events", "scope", "description", "enabled", "disabled_reason", "created_at")
    return {field: getattr(webhook, field) for field in fields} | {"user": user, "filter": Filter(tag=webhook.tag)}
