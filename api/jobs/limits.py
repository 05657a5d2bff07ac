"""What a caller may ask of the queue: a priority within the bounds of their role, and so many waiting jobs."""

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from api.access.caller import Caller
from api.settings import ApiSettings
from models.errors import FieldError, PriorityNotAllowed
from models.queue_limit import QueueRoom, room_of
from models.user import Role


def check_priority(caller: Caller, settings: ApiSettings, priority: int) -> None:
    """Raise PriorityNotAllowed, naming the field `priority`, where the caller's role does not allow it."""
    low, high = settings.member_min_priority, settings.member_max_priority
    if caller.role is not Role.ADMIN and not low <= priority <= high:
        message = f"Members may ask for a priority from {low} to {high}."
        raise PriorityNotAllowed([FieldError("priority", message, PriorityNotAllowed.code)])


async def room_in_queue(session: AsyncSession, settings: ApiSettings, user_id: UUID) -> QueueRoom:
    """Return how many jobs of a user wait and may wait; `require` it before another one is put into the queue."""
    waiting, most = (await session.execute(room_of(user_id, default=settings.max_queued))).one()
    return QueueRoom(waiting, most)
