"""How users are read from the database and locked in it."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import and_, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from models.errors import UserExists, UserNotFound
from models.share import Share
from models.user import Role, User


async def user_named(session: AsyncSession, name: str) -> User:
    """Return the user with this name; raise UserNotFound."""
    return _found(await session.scalar(select(User).where(User.name == name)), name)


async def lock_user(session: AsyncSession, name: str) -> User:
    """Return the user with this name, locked until the transaction ends; raise UserNotFound."""
    query = select(User).where(User.name == name)
    # Not a full lock: it would wait for, and hold up, whoever submits a job of this user.
    return _found(await session.scalar(query.with_for_update(key_share=True)), name)


async def lock_with_admins(session: AsyncSession, name: str) -> tuple[User, bool]:
    """Return the user with this name, and whether this is the last active admin; raise UserNotFound.

    All active admins are locked with them, in one order: two who disable each other take turns, and one stays.
    """
    is_active_admin = and_(User.role == Role.ADMIN, User.disabled_at.is_(None))
    query = select(User).where(or_(User.name == name, is_active_admin)).order_by(User.id)
    locked = {user.name: user for user in await session.scalars(query.with_for_update(key_share=True))}
    user = _found(locked.get(name), name)
    return user, user.is_active_admin and len(locked) == 1


async def add_user(session: AsyncSession, name: str, role: Role) -> User:
    """Make a user; raise UserExists."""
    made = insert(User).values(id=uuid7(), name=name, role=role.value).on_conflict_do_nothing(index_elements=["name"])
    user: User | None = await session.scalar(made.returning(User))
    if user is None:
        raise UserExists(f"There is a user {name} already.")
    return user


async def page(session: AsyncSession, *, after: str | None, limit: int) -> list[tuple[User, Share | None]]:
    """Return at most `limit` users whose names come after `after`, with their parts in the queue."""
    query = select(User, Share).outerjoin(Share, Share.user_id == User.id).order_by(User.name).limit(limit)
    if after is not None:
        query = query.where(User.name > after)
    return [(user, share) for user, share in await session.execute(query)]


async def share_of(session: AsyncSession, user_id: UUID) -> Share | None:
    """Return a user's part in the queue; None for who has never had one."""
    return await session.get(Share, user_id)


async def change_share(session: AsyncSession, user_id: UUID, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Change a user's part in the queue; return what is new of it."""
    await session.execute(insert(Share).values(user_id=user_id).on_conflict_do_nothing())
    share = await session.get_one(Share, user_id, with_for_update=True)
    new = {name: value for name, value in wanted.items() if getattr(share, name) != value}
    for name, value in new.items():
        setattr(share, name, value)
    return new


def _found(user: User | None, name: str) -> User:
    if user is None:
        raise UserNotFound(f"There is no user {name}.")
    return user
