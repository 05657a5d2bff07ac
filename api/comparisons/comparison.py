"""The comparison of jobs that have been read: pure, and to be run beside the event loop."""

from collections.abc import Sequence
from typing import Any

from api.comparisons.groups import groups_of
from api.comparisons.networks import Budget, Place, align
from api.comparisons.pairs import significance_of
from api.comparisons.rows import Row
from api.comparisons.schemas import (
    ComparedCurves,
    ComparedJob,
    ComparedScores,
    ComparedTimes,
    Comparison,
    LayerDifference,
    NetworkDifference,
    SpecDifference,
)
from api.comparisons.specs import spec_differences

_UNKNOWN = "The layers of one of the two are not known: those of a torchvision network are counted for its result."
_BY_POSITION = "The networks of this answer are too large to align them all: layers are paired by their position here."


def compare(rows: Sequence[Row], curves: ComparedCurves) -> Comparison:
    """Compare jobs, in their order, with each other, and their networks with that of the first."""
    return Comparison(
        jobs=[_job(row) for row in rows],
        spec_differences=[
            SpecDifference(path=path, values={rows[index].id: value for index, value in values.items()})
            for path, values in spec_differences([row.spec for row in rows])
        ],
        network_differences=_network_differences(rows),
        curves=curves,
        significance=significance_of(rows),
        groups=groups_of(rows),
    )


def _job(row: Row) -> ComparedJob:
    spec, result = row.spec, row.essentials
    parameters, macs = _size(row)
    return ComparedJob.model_validate(
        {
            "id": row.id,
            "name": row.name,
            "status": row.status,
            "user": row.user,
            "recipe": spec.get("recipe"),
            "dataset": spec["dataset"]["name"],
            "network": spec["network"]["name"],
            "task": row.task,
            "seed": row.seed,
            "replicas": row.replicas,
            "tags": spec.get("tags", []),
            "metadata": spec.get("metadata", {}),
            "epochs": row.last_epoch or 0,
            "best_epoch": row.best_epoch if result is None else result["best_epoch"],
            "scores": None if result is None else _scores(result),
            "times": None if result is None else _times(result["timing"]),
            "latency": None if result is None else result["timing"]["latency"],
            "parameters": parameters,
            "macs_per_sample": macs,
            "device": None if result is None else result["environment"]["device"],
            "gpu": None if result is None else result["environment"]["gpu"],
            "note": None if result is not None else f"The job is {row.status} and has no result: its scores are null.",
        }
    )


def _size(row: Row) -> tuple[int | None, int | None]:
    """Return parameters and MACs: those that were counted, else those of the listed layers, known before the end."""
    if row.essentials is not None:
        return row.essentials["parameters"]["total"], row.essentials["macs_per_sample"]
    if row.places is None:
        return None, None
    return sum(place.parameters for place in row.places), sum(place.macs for place in row.places)


def _scores(result: dict[str, Any]) -> ComparedScores:
    errors = result["regression"]
    return ComparedScores.model_validate(
        {
            "loss": result["loss"],
            "accuracy": result["accuracy"],
            "regression": None if errors is None else errors["original"],
        }
    )


def _times(timing: dict[str, Any]) -> ComparedTimes:
    times = {name: timing[name] for name in ComparedTimes.model_fields if name in timing}
    return ComparedTimes(epoch_seconds_median=timing["epoch_seconds"]["median"], **times)


def _network_differences(rows: Sequence[Row]) -> list[NetworkDifference]:
    """Compare each network with the first; one that several jobs have is compared once."""
    first, *others = rows
    known: dict[str, tuple[str | None, list[LayerDifference]]] = {}
    budget = Budget()
    differences = []
    for row in others:
        difference = NetworkDifference(job_id=row.id, first_job_id=first.id, identical=None, note=_UNKNOWN, layers=[])
        if first.places is not None and row.places is not None:
            content = repr(row.places)
            if content not in known:
                known[content] = _noted_layers(first.places, row.places, budget)
            note, layers = known[content]
            update = {"identical": first.places == row.places, "note": note, "layers": layers}
            difference = difference.model_copy(update=update)
        differences.append(difference)
    return differences


def _noted_layers(
    first: Sequence[Place], other: Sequence[Place], budget: Budget
) -> tuple[str | None, list[LayerDifference]]:
    refusals = budget.refusals
    layers = _layers(first, other, budget)
    return _BY_POSITION if budget.refusals > refusals else None, layers


def _layers(first: Sequence[Place], other: Sequence[Place], budget: Budget) -> list[LayerDifference]:
    return [_difference(mine, theirs, budget) for mine, theirs in align(first, other, budget)]


def _difference(mine: Place | None, theirs: Place | None, budget: Budget) -> LayerDifference:
    differs = [] if mine is None or theirs is None else mine.differs_from(theirs)
    return LayerDifference(
        status="added" if mine is None else "removed" if theirs is None else "changed" if differs else "same",
        differs=differs,
        first=mine and mine.shown,
        other=theirs and theirs.shown,
        layers=_layers(mine.inside, theirs.inside, budget) if mine and theirs and differs else [],
    )
