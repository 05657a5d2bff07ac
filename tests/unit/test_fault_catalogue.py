"""The table of faults in docs/operations.md is the harness's own, and each fault in it has its test."""

import ast
from pathlib import Path

import pytest

from harness.catalogue import CATALOGUE, PAGE, Fault, page_with_table

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("fault", CATALOGUE, ids=lambda fault: f"{fault.name}, {fault.moment}")
def test_a_fault_in_the_catalogue_is_injected_by_a_test(fault: Fault) -> None:
    file, name = fault.test.split("::")
    tree = ast.parse((TESTS / file).read_text())
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_no_fault_is_told_twice() -> None:
    told = [(fault.name, fault.component, fault.moment) for fault in CATALOGUE]
    assert len(told) == len(set(told))


def test_the_page_shows_the_catalogue_as_it_is() -> None:
    page = PAGE.read_text()
    assert page == page_with_table(page), "run: PYTHONPATH=tests python -m harness.catalogue"
