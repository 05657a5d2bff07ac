"""Ids in paths: each has one spelling."""

from typing import Annotated
from uuid import UUID

from fastapi import Path

from models.errors import TrainyardError

UuidText = Annotated[str, Path(json_schema_extra={"format": "uuid"})]


def uuid_in_path(text: str, missing: TrainyardError) -> UUID:
    """Return the UUID that a path names; raise `missing` for anything else: Python also reads braces and URNs."""
    try:
        parsed = UUID(text)
    except ValueError:
        raise missing from None
    if str(parsed) != text.lower():
        raise missing
    return parsed
