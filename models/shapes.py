"""What the shapes of all that a job reports have in common."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Shape(BaseModel):
    """A part of a report: it has the fields that it says and no others, and is never changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _is_none(value: object) -> bool:
    return value is None


def only_where_there_is_one() -> Any:
    """Return the field of something that is not shown, and is no null either, where it does not exist."""
    return Field(default=None, exclude_if=_is_none)
