"""Requests that may be sent twice: with the same `Idempotency-Key` the first answer is given again.

The answer is stored in the transaction of the change, so there is one exactly if the change was committed: nothing is
left to tidy after a crash, and a request that was refused may be sent again. A lock that ends with the transaction
keeps a second request with the key away meanwhile. A route takes part with `route_class=IdempotentRoute` on its router
and `dependencies=[IDEMPOTENT]` on itself; the answer must be a success that it returns at once, not a stream. Where the
body takes long to check, a parameter made by `idempotent_after` takes the place of IDEMPOTENT: no connection waits.
"""

import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Header, Request, Response
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from api.access.caller import Caller, WriterDep
from api.problems import ProblemError, bad_header
from api.services import ServicesDep, SessionDep
from api.statements import Connection, connection_of
from api.strict_json import StrictRoute
from models.idempotency import IdempotentAnswer, is_kept

_MAX_KEY_LENGTH = 255
_REPLAYED = "Idempotency-Replayed"

_RETRY_AFTER_SECONDS = 1


class IdempotentRoute(StrictRoute):
    """A route that stores its answer with its change, and gives the stored one to the same request again."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the whole handling of the request, within its transaction."""
        handler = super().get_route_handler()

        async def once(request: Request) -> Response:
            try:
                response = await handler(request)
            except _AnsweredBefore as before:
                return _replay(before.answer)
            if (pending := _pending(request)) is not None:
                await pending.store(response)
            return response

        return once


@dataclass(frozen=True)
class _Keyed:
    """A request with a key."""

    user_id: UUID
    key: str
    fingerprint: bytes

    async def lock(self, session: AsyncSession) -> None:
        """Keep other requests with this key away until the transaction ends; raise ProblemError (409) where one is."""
        if not await session.scalar(select(func.pg_try_advisory_xact_lock(self._lock_number))):
            raise ProblemError(
                409,
                "idempotency_in_flight",
                "A request with this Idempotency-Key is being answered right now.",
                {"Retry-After": str(_RETRY_AFTER_SECONDS)},
            )

    async def check_is_first(self, session: AsyncSession) -> None:
        """Raise _AnsweredBefore, or ProblemError (422) where the key was sent with another request."""
        before = await session.scalar(
            select(IdempotentAnswer).where(
                IdempotentAnswer.user_id == self.user_id, IdempotentAnswer.key == self.key, is_kept()
            )
        )
        if before is None:
            return
        if before.fingerprint == self.fingerprint:
            raise _AnsweredBefore(before)
        raise ProblemError(
            422,
            "idempotency_key_reused",
            "This Idempotency-Key was sent with another request, or with other rights: use a new one.",
        )

    @property
    def _lock_number(self) -> int:
        """64 bits of a digest: two keys that share them would only wait for each other."""
        digest = hashlib.sha256(self.user_id.bytes + self.key.encode()).digest()
        return int.from_bytes(digest[:8], signed=True)


@dataclass(frozen=True)
class _Pending:
    """A request that holds its key's lock, and is answered for the first time."""

    session: AsyncSession
    keyed: _Keyed

    async def store(self, response: Response) -> None:
        """Add the answer to the transaction of the change; an expired one gives way."""
        answer = {
            "fingerprint": self.keyed.fingerprint,
            "status": response.status_code,
            "media_type": response.headers["content-type"],
            "location": response.headers.get("location"),
            "body": bytes(response.body),
        }
        await self.session.execute(
            insert(IdempotentAnswer)
            .values(user_id=self.keyed.user_id, key=self.keyed.key, **answer)
            .on_conflict_do_update(
                index_elements=["user_id", "key"], set_=answer | {"created_at": func.clock_timestamp()}
            )
        )


class _AnsweredBefore(Exception):
    def __init__(self, answer: IdempotentAnswer) -> None:
        super().__init__(answer.key)
        self.answer = answer


async def _keyed(
    request: Request,
    caller: WriterDep,
    idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=_MAX_KEY_LENGTH,
            pattern="^[ -~]+$",
            description="Of your choice, in printable ASCII; for 24 hours the same request with the same key is "
            "answered as the first time, and changes nothing.",
        ),
    ] = None,
) -> _Keyed | None:
    if idempotency_key is None:
        return None
    if len(request.headers.getlist("idempotency-key")) > 1:
        raise bad_header("Idempotency-Key", "Send one, not several", "repeated")
    return _Keyed(caller.user_id, idempotency_key, await _fingerprint(request, caller))


_KeyedDep = Annotated[_Keyed | None, Depends(_keyed)]


async def _first_or_again(request: Request, keyed: _KeyedDep, session: SessionDep) -> None:
    """Lock the key until the transaction ends, and raise _AnsweredBefore where the request has been answered."""
    if keyed is None:
        return
    await keyed.lock(session)
    # A statement of its own, after the lock: it sees what the request before us has committed.
    await keyed.check_is_first(session)
    request.state.idempotent = _Pending(session, keyed)


# For the `dependencies` of a route.
IDEMPOTENT = Depends(_first_or_again)


async def _not_known_as_answered(keyed: _KeyedDep, services: ServicesDep) -> None:
    """Raise _AnsweredBefore where a look without a lock, at a connection given back at once, finds the answer."""
    if keyed is not None:
        async with services.read_sessions() as session:
            await keyed.check_is_first(session)


def idempotent_after(check: Callable[..., Coroutine[Any, Any, Any]]) -> Any:
    """Return the `Depends` of a parameter: what `check`, itself a dependency, has made of the request.

    It is called where the key is not known, and before the key is locked, for which a connection is needed.
    """

    async def checked_then_locked(
        request: Request,
        _: Annotated[None, Depends(_not_known_as_answered)],
        checked: Annotated[Any, Depends(check)],
        keyed: _KeyedDep,
        session: SessionDep,
    ) -> Any:
        await _first_or_again(request, keyed, session)
        return checked

    return Depends(checked_then_locked)


async def _statement(request: Request, services: ServicesDep, session: SessionDep) -> AsyncIterator[Connection]:
    if _pending(request) is None:
        async with services.statements.connection() as connection:
            yield connection
    else:
        yield await connection_of(session)


# For a change that is one statement, which commits by itself unless its answer is stored with it; after IDEMPOTENT.
StatementDep = Annotated[Connection, Depends(_statement, scope="function")]


def _pending(request: Request) -> _Pending | None:
    pending: _Pending | None = getattr(request.state, "idempotent", None)
    return pending


async def _fingerprint(request: Request, caller: Caller) -> bytes:
    """Return the SHA-256 of method, path and body, as they were sent, and of the rights with which they were.

    Who has lost a right since then is not shown again what it allowed.
    """
    rights = f"{caller.role} {' '.join(sorted(caller.scopes))}\n".encode()
    target = b"%b %b?%b\n" % (request.method.encode(), request.scope["raw_path"], request.scope["query_string"])
    return hashlib.sha256(rights + target + await request.body()).digest()


def _replay(answer: IdempotentAnswer) -> Response:
    headers = {_REPLAYED: "true", "Cache-Control": "no-store"}
    if answer.location is not None:
        headers["Location"] = answer.location
    return Response(answer.body, answer.status, headers, answer.media_type)
