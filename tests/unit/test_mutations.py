"""The guards that `make mutate-faults` takes out are where it looks for them, and the tests that it runs are there."""

from pathlib import Path

import pytest

from harness.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).parents[2]
each = pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.name for mutation in MUTATIONS])


@each
def test_a_guard_stands_once_in_its_file(mutation: Mutation) -> None:
    source = (ROOT / mutation.file).read_text("utf-8")
    assert source.count(mutation.guard) == 1
    compile(source.replace(mutation.guard, mutation.without), mutation.file, "exec")


@each
def test_a_guard_is_missed_by_tests_that_are_there(mutation: Mutation) -> None:
    assert mutation.tests
    for test in mutation.tests:
        file, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}(" in (ROOT / file).read_text("utf-8")
