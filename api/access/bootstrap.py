"""Makes the first admin and a token: `python -m api.access.bootstrap [--file PATH]`; without a file, it is printed."""

import argparse
import asyncio
import os
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from api.access.caller import Caller
from api.access.known_tokens import KnownTokens, TokenRefused
from api.audit.queries import record
from api.tokens.queries import add_token
from models.database import async_engine, async_sessions
from models.settings import Settings, read_settings
from models.user import FIRST_ADMIN, SCOPES_OF, Role, Scope, User, access_changed


async def bootstrap(settings: Settings, file: Path | None, name: str) -> str | None:
    """Make a token of the user `admin`, with every scope; return its text, None where `file` holds one that works.

    The user is made, or enabled and promoted again: whoever can start this has the database's password anyway. A file
    is readable by its owner alone from its first byte on, and is whole or not there.
    """
    engine = async_engine(settings, pool_size=2)
    sessions = async_sessions(engine)
    try:
        if file is not None and await _works(KnownTokens(sessions), _read(file)):
            _hide(file)
            return None
        async with sessions.begin() as session:
            admin, caller = await _first_admin(session)
            token, text = await add_token(session, admin, name, list(Scope), None)
            record(session, caller, "token.create", f"token:{token.id}", {"user": admin.name, "name": name})
            if file is not None:  # before the commit: a token that nobody has is worse than a file that is made again
                _write(file, f"{text}\n")
        return str(text)
    finally:
        await engine.dispose()


async def _works(tokens: KnownTokens, text: str) -> bool:
    """Return whether this is the text of a token that administrates."""
    try:
        grant = await tokens.grant(text)
    except TokenRefused:
        return False
    return Scope.ADMIN in grant.scopes


async def _first_admin(session: AsyncSession) -> tuple[User, Caller]:
    """Return the user `admin`, locked and active, and as who acts here."""
    values = {"id": uuid7(), "name": FIRST_ADMIN, "role": Role.ADMIN}
    made = insert(User).values(values).on_conflict_do_nothing(index_elements=["name"]).returning(User.id)
    is_new = await session.scalar(made) is not None
    query = select(User).where(User.name == FIRST_ADMIN).with_for_update(key_share=True)
    admin = (await session.scalars(query)).one()
    caller = Caller(admin.id, admin.name, Role.ADMIN, SCOPES_OF[Role.ADMIN], None, f"bootstrap-{uuid7()}")
    if is_new:
        record(session, caller, "user.create", f"user:{FIRST_ADMIN}", {"role": Role.ADMIN})
    elif not admin.is_active_admin:
        admin.role, admin.disabled_at = Role.ADMIN.value, None
        record(session, caller, "user.update", f"user:{FIRST_ADMIN}", {"role": Role.ADMIN, "disabled": False})
        await session.execute(access_changed())
    return admin, caller


def _read(file: Path) -> str:
    """Return what the file holds, nothing where there is none."""
    return file.read_text(encoding="ascii", errors="replace").strip() if file.exists() else ""


def _hide(file: Path) -> None:
    file.chmod(0o600)  # whoever wrote it by hand may have forgotten


def _write(file: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    aside = file.with_name(f".{file.name}.{uuid7().hex}")
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as output:
            output.write(text)
            output.flush()
            os.fsync(output.fileno())
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


def main() -> None:
    """Run once; print the token where no file is named."""
    parser = argparse.ArgumentParser(prog="python -m api.access.bootstrap", description=__doc__)
    parser.add_argument("--file", type=Path, help="where the token is kept; not replaced while the one in it works")
    parser.add_argument("--name", default="bootstrap", help="what the token is called in lists (default: bootstrap)")
    arguments = parser.parse_args()
    text = asyncio.run(bootstrap(read_settings(Settings), arguments.file, arguments.name))
    if arguments.file is None:
        print(text)


if __name__ == "__main__":
    main()
