"""How long a request may wait for the database in all: a frozen server ends no statement by itself."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.exc import TimeoutError as PoolTimeout

_DATABASE_SECONDS = 12.0  # more than the server allows a statement: where it lives, it speaks first


@asynccontextmanager
async def within_limit() -> AsyncIterator[None]:
    """Raise PoolTimeout, which is answered with 503, where the body waits for longer."""
    limit = asyncio.timeout(_DATABASE_SECONDS)
    try:
        async with limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise PoolTimeout(f"the database did not answer for {_DATABASE_SECONDS:g} s") from None
