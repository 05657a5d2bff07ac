"""The benchmarks: medians and spreads, goals, the page that is written, and one small run of everything that trains."""

import re
from pathlib import Path

import pytest

from benchmarks.processes import Forker, MeasurementFailed
from benchmarks.tables import Goal, Spread, at_least, below, table, with_section
from benchmarks.training import main

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
EMPTY = "before\n<!-- benchmark: cpu -->\nold\n<!-- end of benchmark: cpu -->\nafter\n"
LOOPS = {"textbook, 0 workers", "textbook, 2 workers", "ours", "ours, a checkpoint per epoch", "floor"}


def test_a_spread_is_the_median_between_the_lowest_and_the_highest() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert Spread.of([4.0, 1.0]) == Spread(2.5, 1.0, 4.0)
    assert Spread(12_345.6, 9_000.0, 13_000.0).show() == "12,346 (9,000 to 13,000)"


def test_ratios_are_taken_within_each_repeat() -> None:
    assert Spread.of_ratios([10.0, 5.0, 1.0], [10.0, 10.0, 1.0]) == Spread(1.0, 0.5, 1.0)
    with pytest.raises(ValueError, match="shorter"):
        Spread.of_ratios([1.0, 2.0], [1.0])


def test_a_missed_goal_is_said_as_plainly_as_a_reached_one() -> None:
    assert at_least("ours / floor", 0.95, 0.95) == Goal("ours / floor", "at least 0.95", "0.95", reached=True)
    assert at_least("ours / floor", 0.95, 0.949).cells()[-1] == "**no**"
    assert below("start", 200, 199.9, "ms").cells() == ["start", "under 200 ms", "199.9 ms", "yes"]
    assert not below("start", 200, 200, "ms").reached


def test_a_table_is_markdown_with_numbers_to_the_right() -> None:
    assert table(["loop", "images/s"], [["ours", "1,000"]]) == "| loop | images/s |\n| --- | ---: |\n| ours | 1,000 |"


def test_only_what_is_between_the_markers_is_replaced() -> None:
    written = with_section(EMPTY, "cpu", "new")
    assert written == "before\n<!-- benchmark: cpu -->\n\nnew\n\n<!-- end of benchmark: cpu -->\nafter\n"
    assert with_section(written, "cpu", "new") == written


def test_a_page_without_markers_is_left_alone() -> None:
    with pytest.raises(ValueError, match="benchmark: gpu"):
        with_section(EMPTY, "gpu", "new")


def test_the_page_has_a_place_for_a_cpu_and_one_for_a_gpu() -> None:
    page = PAGE.read_text()
    assert with_section(with_section(page, "cpu", "one"), "gpu", "two").count("\n\none\n\n") == 1


def test_a_measurement_that_fails_or_takes_too_long_is_named() -> None:
    with Forker([]) as forker:
        assert forker.call("math:sqrt", 9.0, seconds=30) == 3.0
        with pytest.raises(MeasurementFailed, match="math domain error"):
            forker.call("math:sqrt", -1.0, seconds=30)
        with pytest.raises(MeasurementFailed, match="not done after 0 s"):
            forker.call("time:sleep", 60.0, seconds=0.1)
        with pytest.raises(MeasurementFailed, match="exit code 3"):
            forker.call("os:_exit", 3, seconds=30)
        assert forker.call("math:sqrt", 4.0, seconds=30) == 2.0


def test_a_small_run_measures_every_loop_and_writes_its_section(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(EMPTY)
    options = ["--quick", "--device", "cpu", "--networks", "lenet", "--images", "256", "--output", str(page)]
    assert main([*options, "--parts", "loops", "replicas"]) == 0
    written = page.read_text()
    rates = dict(re.findall(r"^\| lenet/128 \| ([^|]+) \| ([\d,]+) ", written, re.MULTILINE))
    assert rates.keys() >= LOOPS
    assert all(int(rate.replace(",", "")) > 0 for rate in rates.values())
    assert "| lenet/128: ours / floor | at least 0.95 |" in written
    assert "| one job with replicas |" in written
    assert "random pixels" in written
    assert str(tmp_path.parent) not in written
    assert written.startswith("before\n")
    assert written.endswith("after\n")
