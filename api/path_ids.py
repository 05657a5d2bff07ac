"""Ids in paths: each has one spelling."""

from uuid import UUID


def uuid_in_path(text: str) -> UUID | None:
    """Return the UUID that a path names, or None; Python's own reading takes braces and URNs too."""
    try:
        parsed = UUID(text)
    except ValueError:
        return None
    return parsed if str(parsed) == text.lower() else None
