"""Where measurements run: each in a process of its own, forked from one that has imported everything and done nothing.

A service's runner begins like that too. Two such parents stand side by side, with the environment of a worker and with
that of a student's script: what the environment says of threads is read once, when torch is imported.
"""

import importlib
import multiprocessing
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

_GRACE_SECONDS = 10.0


class MeasurementFailed(Exception):
    """A measurement did not come to its end; says which, and why."""


class Forker:
    """A process that forks one process per call; the fork has torch imported and its allocator and threads untouched.

    `modules` are imported beforehand, after `prepare` has been called, if there is one; functions are named as
    "module:function", because this process must do without torch: a spawned one repeats what its parent imports first.
    """

    def __init__(self, modules: list[str], *, prepare: str | None = None) -> None:
        self._modules, self._prepare = modules, prepare

    def __enter__(self) -> Self:
        """Start the process; its imports go on while this one does."""
        # Spawned: what this process has imported, and its threads, must not be there.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._modules, self._prepare))
        self._process.start()
        theirs.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the process and what it measures."""
        self._pipe.close()
        self._process.join()

    def call(self, function: str, *arguments: object, seconds: float) -> Any:
        """Return what `function(*arguments)` returns in a new process; raise MeasurementFailed after `seconds`."""
        try:
            self._pipe.send((function, arguments, seconds))
            succeeded, answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise MeasurementFailed(f"{function}: the process that measures has ended") from error
        if not succeeded:
            raise MeasurementFailed(f"{function}{arguments}: {answer}")
        return answer


def _serve(pipe: Connection, modules: list[str], prepare: str | None) -> None:
    if prepare is not None:
        _find(prepare)()
    for name in modules:
        importlib.import_module(name)
    with suppress(EOFError, OSError, KeyboardInterrupt):  # who asked has gone
        while True:
            function, arguments, seconds = pipe.recv()
            pipe.send(_in_a_fork(pipe, _find(function), arguments, seconds))


def _find(function: str) -> Callable[..., Any]:
    module, _, name = function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def _in_a_fork(
    requests: Connection, function: Callable[..., Any], arguments: tuple[object, ...], seconds: float
) -> tuple[bool, Any]:
    """Return (True, what it returned) or (False, what went wrong); the fork ends with the one who asked."""
    context = multiprocessing.get_context("fork")
    answers, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    try:
        ready = connection.wait([answers, requests], timeout=seconds)
        if not ready:
            return False, f"not done after {seconds:.0f} s"
        if answers not in ready:
            sys.exit()  # nothing is asked for meanwhile: this is the end of the pipe
        answer: tuple[bool, Any] = answers.recv()
        process.join(_GRACE_SECONDS)  # processes of its own, which load data, end before it
    except EOFError:
        process.join()
        return False, f"ended with exit code {process.exitcode}"
    else:
        return answer
    finally:
        process.kill()
        process.join()


def _answer(pipe: Connection, function: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    try:
        pipe.send((True, function(*arguments)))
    except Exception:  # noqa: BLE001 - whatever happened is told
        pipe.send((False, traceback.format_exc()))
