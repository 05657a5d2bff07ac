"""The line of long checks: one at a time, every user's in turn, and a bound on how many wait."""

import asyncio
from collections.abc import Callable
from threading import Event
from uuid import UUID, uuid4

import pytest

from api.checks import MAX_IN_LINE, Checks
from api.problems import ProblemError


def test_only_one_check_runs_and_every_user_has_a_turn() -> None:
    many, few = uuid4(), uuid4()
    order: list[str] = []
    begun = Event()
    running = 0

    def check(name: str, go: Event) -> Callable[[], str]:
        def run() -> str:
            nonlocal running
            running += 1
            assert running == 1
            order.append(name)
            begun.set()
            go.wait(10)
            running -= 1
            return name

        return run

    async def all_of_them() -> list[str]:
        checks, go = Checks(), Event()

        def asked(user: UUID, name: str) -> asyncio.Task[str]:
            return asyncio.create_task(checks.run(user, check(name, go)))

        tasks = [asked(many, f"many {number}") for number in range(5)]
        assert await asyncio.to_thread(begun.wait, 10)
        tasks.append(asked(few, "few"))
        await asyncio.sleep(0)
        go.set()
        return await asyncio.gather(*tasks)

    assert asyncio.run(all_of_them()) == [f"many {number}" for number in range(5)] + ["few"]
    assert order.index("few") <= 2, "at most the check before it, and the one that was waiting for its turn"


def test_who_has_too_many_in_line_is_refused_and_nobody_else() -> None:
    async def overfilled() -> None:
        checks, go, user = Checks(), Event(), uuid4()
        waiting = [asyncio.create_task(checks.run(user, lambda: go.wait(10))) for _ in range(MAX_IN_LINE)]
        await asyncio.sleep(0)
        with pytest.raises(ProblemError) as refused:
            await checks.run(user, lambda: None)
        assert (refused.value.status_code, refused.value.code) == (429, "rate_limited")
        assert refused.value.headers is not None
        assert int(refused.value.headers["Retry-After"]) >= 1
        another = asyncio.create_task(checks.run(uuid4(), lambda: "done"))
        go.set()
        assert await another == "done"
        assert await asyncio.gather(*waiting) == [True] * MAX_IN_LINE
        assert await checks.run(user, lambda: "again") == "again"

    asyncio.run(overfilled())


def test_a_check_that_fails_lets_the_next_one_begin() -> None:
    async def failing() -> None:
        checks, user = Checks(), uuid4()
        with pytest.raises(ZeroDivisionError):
            await checks.run(user, lambda: 1 // 0)
        assert await checks.run(user, lambda: 1) == 1

    asyncio.run(failing())
