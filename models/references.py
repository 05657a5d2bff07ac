"""The jobs that a spec names, to wait for them or to start from their weights: whether that can be, and what is unmet.

The rows are read under locks, in the order of their ids, in the transaction that stores the job or lets it wait again:
none of them ends in between, so that the trigger `settle_dependents` finds every job that waits.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from models.errors import DependencyFailed, FieldError, InvalidSpec
from models.job import Status
from models.placed_layers import PlacedLayer
from models.presets import Torchvision
from models.spec import JobSpec

# For a driver's cursor, with `ids`; the columns are those of Referenced.
REFERENCED = """
    SELECT id, user_id, status, spec, EXISTS (
        SELECT FROM epochs WHERE job_id = jobs.id AND attempt >= trained_since AND checkpoint IS NOT NULL AND epoch > 0
    ) AS has_checkpoint, artifacts_removed_at IS NOT NULL AS lost_checkpoints
    FROM jobs WHERE id = ANY (%(ids)s) AND deleted_at IS NULL ORDER BY id FOR SHARE OF jobs
"""


@dataclass(frozen=True)
class Referenced:
    """A job that a spec names, as it stands."""

    id: UUID
    owner: UUID
    status: str
    spec: dict[str, Any]
    has_checkpoint: bool
    lost_checkpoints: bool  # they were removed, after its end


def referenced_ids(spec: Mapping[str, Any]) -> set[UUID]:
    """Return the ids of all jobs that a resolved spec names."""
    initial = spec.get("initial_checkpoint")
    return set(dependencies(spec)) | ({UUID(initial["job"])} if initial else set())


def dependencies(spec: Mapping[str, Any]) -> list[UUID]:
    """Return the ids of the jobs that have to succeed first."""
    return list(map(UUID, spec.get("depends_on", ())))


def found(rows: Iterable[Sequence[Any]]) -> dict[UUID, Referenced]:
    """Return the rows of REFERENCED by their ids."""
    return {row[0]: Referenced(*row) for row in rows}


def unmet_of(spec: Mapping[str, Any], jobs: Mapping[UUID, Referenced], may_read: Callable[[UUID], bool]) -> list[UUID]:
    """Return the jobs that a new job has to wait for, once each.

    Raises InvalidSpec naming each `depends_on.<i>` that is not there (to who may not read it, as by `may_read` of its
    owner, it is not) or that has ended without success, and an `initial_checkpoint` that cannot be taken.
    """
    problems = []
    for place, job_id in enumerate(dependencies(spec)):
        job = jobs.get(job_id)
        if job is None or not may_read(job.owner):
            problems.append(FieldError(f"depends_on.{place}", f"There is no job {job_id}.", "unknown_job"))
        elif job.status in (Status.FAILED, Status.CANCELLED):
            message = f"Job {job_id} is {job.status}: a job that depends on it would never start."
            problems.append(FieldError(f"depends_on.{place}", message, "job_reference"))
    if spec.get("initial_checkpoint") is not None:
        problems += _initial_problems(spec, jobs, may_read)
    if problems:
        raise InvalidSpec(problems)
    return _unmet(spec, jobs)


def unmet_again(spec: Mapping[str, Any], jobs: Mapping[UUID, Referenced]) -> list[UUID]:
    """Return the jobs that a stored job has to wait for.

    Raises DependencyFailed where one ended without success, or is not there any more.
    """
    for job_id in dependencies(spec):
        if job_id not in jobs:
            raise DependencyFailed(f"Job {job_id}, which this one depends on, was deleted: submit a clone without it.")
    for job in jobs.values():
        if job.id in dependencies(spec) and job.status in (Status.FAILED, Status.CANCELLED):
            raise DependencyFailed(
                f"Job {job.id}, which this one depends on, is {job.status}: try that one again first."
            )
    return _unmet(spec, jobs)


def _unmet(spec: Mapping[str, Any], jobs: Mapping[UUID, Referenced]) -> list[UUID]:
    return sorted(job_id for job_id in set(dependencies(spec)) if jobs[job_id].status != Status.SUCCEEDED)


def _initial_problems(
    spec: Mapping[str, Any], jobs: Mapping[UUID, Referenced], may_read: Callable[[UUID], bool]
) -> list[FieldError]:
    source_id = UUID(spec["initial_checkpoint"]["job"])
    source = jobs.get(source_id)
    if source is None or not may_read(source.owner):
        return [FieldError("initial_checkpoint.job", f"There is no job {source_id}.", "unknown_job")]
    if source.lost_checkpoints:
        message = f"The checkpoints of job {source_id} were removed some time after its end: name another job."
        return [FieldError("initial_checkpoint.job", message, "no_checkpoint")]
    # One that this job waits for anyway has its checkpoints by then.
    if not source.has_checkpoint and source_id not in dependencies(spec):
        message = f"Job {source_id} has no checkpoint yet; name it in `depends_on` to start when it has succeeded."
        return [FieldError("initial_checkpoint.job", message, "no_checkpoint")]
    difference = first_difference(spec, source.spec)
    if difference is not None:
        return [FieldError("initial_checkpoint.job", f"Job {source_id} has another network: {difference}", "conflict")]
    return []


def first_difference(spec: Mapping[str, Any], source: Mapping[str, Any]) -> str | None:
    """Say where the network of a resolved spec first differs from that of the source; None where they are the same.

    Networks given as layers are compared layer by layer, those of torchvision by their names and settings, on inputs
    and outputs of the same shapes.
    """
    try:
        mine, other = JobSpec.model_validate(spec), JobSpec.model_validate(source)
    except ValidationError:
        return "its spec is of an earlier version of the service."
    if isinstance(mine.network, Torchvision) or isinstance(other.network, Torchvision):
        return _torchvision_difference(mine, other)
    if mine.dataset.input_shape != other.dataset.input_shape:
        return f"it takes inputs of the shape {other.dataset.input_shape}, not {mine.dataset.input_shape}."
    for own, its in zip_longest(_places(mine), _places(other)):
        if own is None or its is None:
            extra, whose = (own, "has no layer") if its is None else (its, "has one more layer,")
            return f"it {whose} {extra.loc} ({extra.layer['kind']})."
        if own.layer["kind"] != its.layer["kind"]:
            return f"its layer {own.loc} is {its.layer['kind']}, not {own.layer['kind']}."
        if fields := own.differs_from(its):
            return f"its layer {own.loc} ({own.layer['kind']}) differs in {', '.join(fields)}."
    return None


def _places(spec: JobSpec) -> tuple[PlacedLayer, ...]:
    summary = spec.summary()
    assert summary is not None, "asked of networks given as layers alone"
    assert not isinstance(spec.network, Torchvision), "likewise"
    return PlacedLayer.listed(spec.network.layer_list(spec.dataset.outputs), summary.layers)


def _torchvision_difference(mine: JobSpec, other: JobSpec) -> str | None:
    if mine.network != other.network:
        return f"it is {_described(other)}, not {_described(mine)}."
    shapes = [(spec.dataset.input_shape, spec.dataset.outputs) for spec in (mine, other)]
    if shapes[0] != shapes[1]:
        return f"it maps inputs of {shapes[1][0]} to {shapes[1][1]} outputs, not {shapes[0][0]} to {shapes[0][1]}."
    return None


def _described(spec: JobSpec) -> str:
    settings = spec.network.model_dump(mode="json")
    return ", ".join(f"{name} {value}" for name, value in settings.items())
