"""Jobs that differ in the seed alone, and the replicas of a job: means, deviations and intervals of their scores."""

from collections.abc import Callable, Sequence
from typing import Any

from api.comparisons.rows import Row
from api.comparisons.schemas import SeedGroup
from api.comparisons.specs import but_for_the_seed
from models.across_seeds import score_of
from models.replicas import ReplicaSplits

_FIGURES = ("loss", "accuracy", "mse", "mae", "r2")
_FEW = "Fewer than two different seeds have a result."
# The value of one figure on one split in the essentials of a result; None where there is none.
Figure = Callable[[dict[str, Any], str], float | None]


def groups_of(rows: Sequence[Row]) -> list[SeedGroup]:
    """Return a group for each spec that two jobs or more share but for the seed, and for each job with replicas."""
    by_spec: dict[str, list[Row]] = {}
    for row in rows:
        if row.replicas == 1:
            by_spec.setdefault(but_for_the_seed(row.spec), []).append(row)
    alike = [_over_jobs(members) for members in by_spec.values() if len(members) > 1]
    return [*alike, *(_over_replicas(row) for row in rows if row.replicas > 1)]


def _over_jobs(members: Sequence[Row]) -> SeedGroup:
    # A seed that was run twice is no second draw.
    results = {row.seed: row.essentials for row in reversed(members) if row.essentials is not None}
    seeds = [seed for seed in dict.fromkeys(row.seed for row in members) if seed in results]
    figures = _figures([results[seed] for seed in seeds]) if len(seeds) > 1 else dict.fromkeys(_FIGURES)
    return SeedGroup(
        over="jobs",
        jobs=[row.id for row in members],
        seeds=seeds,
        n=len(seeds),
        note=None if len(seeds) > 1 else _FEW,
        **figures,
    )


def _over_replicas(row: Row) -> SeedGroup:
    report = None if row.essentials is None else row.essentials["replicas"]
    seeds = [] if report is None else report["seeds"]
    figures = {name: None if report is None else report[name] for name in _FIGURES}
    return SeedGroup.model_validate(
        {"over": "replicas", "jobs": [row.id], "seeds": seeds, "n": len(seeds), "note": None if report else _FEW}
        | figures
    )


def _figures(results: Sequence[dict[str, Any]]) -> dict[str, ReplicaSplits | None]:
    if results[0]["regression"] is None:
        return dict.fromkeys(_FIGURES) | {name: _per_split(results, _plain(name)) for name in ("loss", "accuracy")}
    errors = {name: _per_split(results, _error(name)) for name in ("mse", "mae", "r2")}
    return {"loss": _per_split(results, _plain("loss")), "accuracy": None, **errors}


def _per_split(results: Sequence[dict[str, Any]], figure: Figure) -> ReplicaSplits:
    scores = {split: [figure(result, split) for result in results] for split in ("train", "validation", "test")}
    return ReplicaSplits(**{split: score_of(values) for split, values in scores.items()})


def _plain(name: str) -> Figure:
    def of(result: dict[str, Any], split: str) -> float | None:
        value: float | None = result[name][split]
        return value

    return of


def _error(name: str) -> Figure:
    def of(result: dict[str, Any], split: str) -> float | None:
        scores = result["regression"]["original"][split]
        return None if scores is None else scores[name]

    return of
