"""A stack whose workers are a module of the harness that runs the product's worker, changed in some way."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from local.children import Command
from local.stack import Stack

_TESTS = Path(__file__).parents[1]


class OddStack(Stack):
    """A stack whose workers are run as `python -m <worker_module>`."""

    def __init__(self, worker_module: str, *arguments: Any, **options: Any) -> None:
        """Describe a stack as its base does."""
        super().__init__(*arguments, **options)
        self._worker_module = worker_module

    def _command(self, name: str) -> Command:
        command = super()._command(name)
        if not name.startswith("worker"):
            return command
        return replace(
            command,
            arguments=[*command.arguments[:-1], self._worker_module],
            environment=command.environment | {"PYTHONPATH": str(_TESTS)},
        )
