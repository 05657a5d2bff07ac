"""Each guard proved by its absence, `make mutate-faults`: taken out of a copy of the source, its test must go red."""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from sysconfig import get_path
from xml.etree import ElementTree

from rich.console import Console
from rich.table import Table

from harness.mutations import MUTATIONS, Mutation

_ROOT = Path(__file__).parents[2]
_LIMIT_SECONDS = 600  # for the tests of one guard: without it they may wait for what never comes


class Unusable(Exception):
    """Nothing can be proved like this; says why."""


class Copy:
    """A copy of the source with an environment of its own that imports it, and all else from ours."""

    def __init__(self, folder: Path) -> None:
        """Copy what git knows, as it stands, into this folder."""
        self.tree = folder / "tree"
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=_ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        for name in filter(None, listed.stdout.split("\0")):
            if (_ROOT / name).is_file():
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(_ROOT / name, self.tree / name)
        venv.create(folder / "venv", symlinks=True)
        self._python = folder / "venv" / "bin" / "python"
        (packages,) = (folder / "venv").glob("lib/python*/site-packages")
        # Ours is added as a folder, so that its own pointer to the original source is not followed.
        (packages / "copy.pth").write_text(f"{self.tree}\n{get_path('purelib')}\n")

    def failures(self, tests: Sequence[str]) -> list[str]:
        """Run these tests; return the names of those that failed, or "the time limit" where they did not end.

        Raises Unusable where pytest could not run them.
        """
        report = self.tree / "report.xml"
        report.unlink(missing_ok=True)
        command = [str(self._python), "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}", *tests]
        try:
            ended = subprocess.run(
                command, cwd=self.tree, capture_output=True, text=True, check=False, timeout=_LIMIT_SECONDS
            )
        except subprocess.TimeoutExpired:
            return ["the time limit"]
        if ended.returncode not in (0, 1):
            raise Unusable(f"pytest ended with {ended.returncode}: {ended.stdout[-2_000:]}{ended.stderr[-2_000:]}")
        cases = ElementTree.parse(report).iter("testcase")
        return [
            case.get("name", "") for case in cases if case.find("failure") is not None or case.find("error") is not None
        ]

    @contextmanager
    def without(self, mutation: Mutation) -> Iterator[None]:
        """Take a guard out for the body; raise Unusable where it is not there, once, as the mutation has it."""
        file = self.tree / mutation.file
        original = file.read_text()
        if (found := original.count(mutation.guard)) != 1:
            raise Unusable(f"{mutation.name}: its text is {found} times in {mutation.file}")
        file.write_text(original.replace(mutation.guard, mutation.without))
        try:
            yield
        finally:
            file.write_text(original)


def prove(copy: Copy, mutations: Sequence[Mutation], console: Console) -> list[str]:
    """Take out one guard after the other, print what caught each, and return the names of those that nothing missed.

    Raises Unusable.
    """
    tests = sorted({test for mutation in mutations for test in mutation.tests})
    console.print(f"{len(tests)} tests with every guard in its place.")
    if failed := copy.failures(tests):
        raise Unusable(f"these fail without a mutation: {', '.join(failed)}")
    survivors = []
    table = Table("guard", "file", "caught by", "s", title="Each guard taken out", title_justify="left")
    for mutation in mutations:
        started = time.monotonic()
        with copy.without(mutation):
            caught = copy.failures(mutation.tests)
        console.print(
            f"{mutation.name}: {'caught by ' + caught[0] if caught else '[red]nothing misses it'}", soft_wrap=True
        )
        table.add_row(mutation.name, mutation.file, "\n".join(caught), f"{time.monotonic() - started:.0f}")
        if not caught:
            survivors.append(mutation.name)
    console.print(table)
    return survivors


def main() -> int:
    """Prove all guards, or those that are named; return 1 where one is missed by nothing."""
    options = argparse.ArgumentParser(prog="mutate", description=__doc__)
    options.add_argument("names", nargs="*", help=f"of {', '.join(mutation.name for mutation in MUTATIONS)}")
    names = options.parse_args().names
    chosen = [mutation for mutation in MUTATIONS if not names or mutation.name in names]
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="trainyard-mutate-") as folder:
        try:
            survivors = prove(Copy(Path(folder)), chosen, console)
        except Unusable as error:
            console.print(f"[red]{error}[/red]", soft_wrap=True)
            return 1
    console.print(
        f"{len(chosen) - len(survivors)} of {len(chosen)} guards are missed by a test when they are not there."
    )
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
