"""The points that Optuna proposes from our rows: repeatable, within the ranges, and better than drawing at random."""

import subprocess
import sys
from typing import Any

import pytest

from models.sweep_spec import Bayesian, Range
from worker.sweeps.bayesian import Tried, propose

DOMAINS: dict[str, Any] = {
    "rate": {"low": 1e-4, "high": 1.0, "log": True},
    "units": {"low": 8, "high": 64, "integer": True, "step": 8},
    "width": {"low": 2, "high": 200, "integer": True, "log": True},
    "drop": {"low": 0.0, "high": 0.5, "step": 0.1},
    "kind": {"choices": [1, True, 1.0, "sgd", None, {"name": "adam", "rates": [0.1]}]},
}


def bayesian(seed: int = 7, **domains: Any) -> Bayesian:
    return Bayesian.model_validate({"n": 100, "seed": seed, "ranges": domains or DOMAINS})


def goodness(point: Any) -> float:
    return -abs(float(point["units"]) - 40) - 50 * abs(float(point["drop"]) - 0.3)


def run(parameters: Bayesian, n: int) -> list[Tried]:
    tried: list[Tried] = []
    for _ in range(n):
        point = propose(parameters, tried, maximizes=True)
        tried.append(Tried(point, "succeeded", goodness(point), 1))
    return tried


def test_the_same_past_gives_the_same_point_and_another_seed_another_one() -> None:
    tried = run(bayesian(), 14)
    assert propose(bayesian(), tried, maximizes=True) == propose(bayesian(), tried, maximizes=True)
    assert propose(bayesian(), tried, maximizes=True) != propose(bayesian(seed=8), tried, maximizes=True)
    points = [str(past.point) for past in tried]
    assert len(set(points)) == 14, "a sampler that is made anew does not begin anew"


def test_proposed_points_lie_in_the_ranges_and_have_their_kinds_of_numbers() -> None:
    kinds = set()
    for past in run(bayesian(), 60):
        point: Any = past.point
        assert list(point) == list(DOMAINS)
        assert 1e-4 <= point["rate"] <= 1.0
        assert point["units"] in range(8, 65, 8)
        assert type(point["units"]) is type(point["width"]) is int
        assert point["drop"] in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
        kinds.add((type(point["kind"]), str(point["kind"])))
    assert len(kinds) == 6, "1, true and 1.0 are three choices"


def test_it_learns_from_what_it_is_told() -> None:
    tried = run(bayesian(), 60)
    early, late = tried[:15], tried[-15:]
    assert sum(goodness(past.point) for past in late) > sum(goodness(past.point) for past in early)
    assert max(goodness(past.point) for past in tried) == 0, "it found the best point"


def test_the_direction_turns_what_it_looks_for() -> None:
    tried = run(bayesian(), 30)
    up = [propose(bayesian(seed), tried, maximizes=True) for seed in range(12)]
    down = [propose(bayesian(seed), tried, maximizes=False) for seed in range(12)]
    assert sum(map(goodness, up)) > sum(map(goodness, down))


@pytest.mark.parametrize("outcome", ["failed", "running", "stopped"])
def test_points_without_a_result_are_no_obstacle(outcome: Any) -> None:
    tried = [Tried(past.point, outcome) for past in run(bayesian(), 12)]
    assert propose(bayesian(), tried, maximizes=True)


def test_a_failed_job_counts_for_nothing_whatever_it_had_reached() -> None:
    tried = run(bayesian(), 15)
    failed = Tried(tried[0].point, "failed", 1e9, 3)
    without = Tried(tried[0].point, "failed")
    assert propose(bayesian(), [*tried, failed], maximizes=True) == propose(
        bayesian(), [*tried, without], maximizes=True
    )


def test_running_jobs_keep_the_next_point_away_from_theirs() -> None:
    domain = {"x": {"low": 0.0, "high": 1.0}}
    tried = [Tried({"x": place / 20}, "succeeded", -abs(place / 20 - 0.5), 1) for place in range(21)]
    running = [Tried({"x": 0.5 + shift / 1_000}, "running") for shift in range(-40, 41, 4)]

    def mean_distance(past: list[Tried]) -> float:
        proposed = [propose(bayesian(seed, **domain), past, maximizes=True)["x"] for seed in range(30)]
        return sum(abs(float(x) - 0.5) for x in proposed if isinstance(x, float)) / 30

    assert mean_distance(tried + running) > mean_distance(tried)


def test_a_stopped_job_says_more_than_a_failed_one() -> None:
    tried = run(bayesian(), 12)
    stopped = [Tried(past.point, "stopped", past.value, 2) for past in tried]
    failed = [Tried(past.point, "failed") for past in tried]
    assert propose(bayesian(), stopped, maximizes=True) != propose(bayesian(), failed, maximizes=True)


def test_optuna_is_loaded_with_the_first_proposal_and_says_nothing() -> None:
    script = """
import sys
import worker.scheduler
from models.sweep_spec import Bayesian
from worker.sweeps.bayesian import Tried, propose
assert "optuna" not in sys.modules and "numpy" not in sys.modules
plan = Bayesian.model_validate({"n": 9, "seed": 1, "ranges": {"x": {"low": 0.0, "high": 1.0}}})
propose(plan, [Tried({"x": 0.5}, "succeeded", 1.0, 1), Tried({"x": 0.25}, "running")], maximizes=True)
assert "optuna" in sys.modules and "torch" not in sys.modules and "alembic" not in sys.modules
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")


def test_the_ranges_of_the_table_are_what_they_are_meant_to_be() -> None:
    domains = bayesian().ranges
    assert [domain.steps for domain in domains.values() if isinstance(domain, Range)] == [None, 7, None, 5]
