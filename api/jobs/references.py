"""The jobs that specs name, to wait for them or to start from their weights, locked and judged for a caller."""

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from api.access.caller import Caller
from api.statements import Connection
from models.references import REFERENCED, Referenced, found, referenced_ids, unmet_again, unmet_of

Spec = Mapping[str, Any]


async def lock(connection: Connection, specs: Iterable[Spec]) -> dict[UUID, Referenced]:
    """Return the jobs that resolved specs name; none of them ends before the transaction does."""
    ids = sorted(set().union(*map(referenced_ids, specs)))
    if not ids:
        return {}
    return found(await (await connection.execute(REFERENCED, {"ids": ids})).fetchall())


async def unmet(connection: Connection, caller: Caller, spec: Spec) -> list[UUID]:
    """Return the jobs that a new job of the caller has to wait for; raise InvalidSpec naming a bad reference."""
    return unmet_of(spec, await lock(connection, [spec]), caller.may_read)


async def unmet_of_stored(connection: Connection, spec: Spec) -> list[UUID]:
    """Return the jobs that a stored job has to wait for; raise DependencyFailed where one ended without success."""
    return unmet_again(spec, await lock(connection, [spec]))
