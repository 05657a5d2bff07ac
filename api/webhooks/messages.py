"""What a receiver gets: the body of an event, and its signature as the Standard Webhooks specification has it."""

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any

_PREFIX = "whsec_"
_SECRET_BYTES = 32  # the specification: 24 to 64


def new_secret() -> str:
    """Return a secret: 32 random bytes in base64, after a prefix."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def body_of(message_id: str, event: str, created_at: datetime, data: Mapping[str, Any]) -> bytes:
    """Return a message's body; the same message has the same bytes in every try."""
    message = {"id": message_id, "type": event, "created_at": created_at.isoformat(), "data": data}
    return json.dumps(message, separators=(",", ":")).encode()


def headers_of(message_id: str, timestamp: int, body: bytes, secret: str) -> dict[str, str]:
    """Return the headers by which a receiver tells that a message is ours, and new; `timestamp` in Unix seconds."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{sign(message_id, timestamp, body, secret)}",
    }


def sign(message_id: str, timestamp: int, body: bytes, secret: str) -> str:
    """Return the HMAC-SHA256 of `<id>.<timestamp>.<body>` in base64.

    Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    """
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    content = f"{message_id}.{timestamp}.".encode() + body
    return base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
