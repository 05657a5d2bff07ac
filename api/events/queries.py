"""How a job's events are read: its transitions and its milestones, in the one order of their ids."""

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from api.events.schemas import EventView

# One statement, so both tables are seen as of one moment; each gives a page at most, whatever the job has.
_PAGE = text(
    """
    SELECT * FROM (
        (
            SELECT id, at, attempt, from_status, to_status, reason, message,
                NULL AS type, NULL::integer AS epoch, NULL::jsonb AS data
            FROM transitions WHERE job_id = :job AND id > :after ORDER BY id LIMIT :limit
        )
        UNION ALL
        (
            SELECT id, at, attempt, NULL, NULL, NULL, NULL, type, epoch, data
            FROM milestones WHERE job_id = :job AND id > :after ORDER BY id LIMIT :limit
        )
    ) AS events ORDER BY id LIMIT :limit
    """
)


async def page(session: AsyncSession, job_id: UUID, *, after: int, limit: int) -> list[EventView]:
    """Show at most `limit` events of a job, oldest first, later than `after`.

    What is written of a job is written under a lock on its row, so a later event never has a smaller id: who asks with
    the last id seen misses nothing.
    """
    rows = await session.execute(_PAGE, {"job": job_id, "after": after, "limit": limit})
    return [EventView.of(row) for row in rows]
