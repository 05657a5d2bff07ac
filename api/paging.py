"""How lists are cut into pages: at most so many items, and the key after which the next page starts."""

from collections.abc import Sequence
from typing import Annotated, TypeVar

from fastapi import Query

MAX_PAGE = 100

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Items on a page")]

Item = TypeVar("Item")


def cut(found: Sequence[Item], limit: int) -> tuple[list[Item], Item | None]:
    """Return a page of what was found with `limit + 1`, and its last item where there are more."""
    page = list(found[:limit])
    return page, page[-1] if len(found) > limit else None
