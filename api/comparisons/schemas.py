"""What the API shows of several jobs beside each other."""

from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from models.datasets import Task
from models.job import Status
from models.replicas import ReplicaSplits
from models.result import LatencyByBatch, PerSplit, RegressionSplits


class ComparedScores(BaseModel):
    """The final scores, each in eval mode on the whole split; a regression's errors are on the target's own scale."""

    loss: PerSplit
    accuracy: PerSplit | None
    regression: RegressionSplits | None


class ComparedTimes(BaseModel):
    """Wall-clock seconds as in a result's `timing`."""

    queued_seconds: float
    training_seconds: float
    epoch_seconds_median: float
    evaluation_seconds: float
    total_seconds: float
    samples_per_second: float


class ComparedJob(BaseModel):
    """A job in short; what only a result knows is null where there is none, and `note` says why."""

    id: UUID
    name: str | None
    status: Status
    user: str
    recipe: str | None
    dataset: str
    network: str
    task: Task
    seed: int
    replicas: int
    tags: list[str]
    metadata: dict[str, str]
    epochs: int = Field(description="Recorded so far.")
    best_epoch: int | None
    scores: ComparedScores | None
    times: ComparedTimes | None
    latency: LatencyByBatch | None
    parameters: int | None
    macs_per_sample: int | None
    device: str | None
    gpu: str | None
    note: str | None


class SpecDifference(BaseModel):
    """A field of the specs that is not the same in all: its value by job; a job without such a field is not there."""

    path: str
    values: dict[UUID, Any]


class ComparedLayer(BaseModel):
    """A layer of one network: its place, its fields, its output shape and counts per sample."""

    loc: str
    layer: dict[str, Any]
    output_shape: list[int]
    parameters: int
    macs: int


class LayerDifference(BaseModel):
    """One place of two aligned networks.

    `differs` names the fields, shape and counts that are not the same; `layers` are those inside a residual that
    differs. An added layer is in the other network alone, a removed one in the first.
    """

    status: Literal["same", "changed", "added", "removed"]
    differs: list[str]
    first: ComparedLayer | None
    other: ComparedLayer | None
    layers: list["LayerDifference"]


class NetworkDifference(BaseModel):
    """The network of a job against that of the first job; `identical` is null where one of them is not known.

    `note` says why the layers are not known, or that there were too many to find out which of them correspond.
    """

    job_id: UUID
    first_job_id: UUID
    identical: bool | None
    note: str | None
    layers: list[LayerDifference]


class ComparedCurves(BaseModel):
    """The curves over common epochs; each metric has a list per job, in the order of `jobs`.

    Null where a job has no such epoch, or the number does not exist or is not finite. Of long trainings evenly spaced
    epochs are shown, of each job's own length, and the best and the last one of each job: `sampled` says so.
    """

    epochs: list[int]
    sampled: bool
    train_loss: list[list[float | None]]
    train_accuracy: list[list[float | None]]
    validation_loss: list[list[float | None]]
    validation_accuracy: list[list[float | None]]
    learning_rate: list[list[float | None]]
    seconds: list[list[float | None]]


PairReason = Literal["no_result", "not_a_classification", "no_predictions", "different_test_samples"]


class PairSignificance(BaseModel):
    """McNemar's test of two jobs on the same test samples; null figures where there is a `reason` against it.

    `b` samples only the first predicts correctly, `c` only the second; `statistic` is null in the exact test.
    `p_value_holm` is adjusted for the number of pairs tested in this answer.
    """

    first: UUID
    second: UUID
    samples: int | None = None
    matched_by: Literal["content", "published_order"] | None = None
    accuracy_difference: float | None = None
    b: int | None = None
    c: int | None = None
    test: Literal["exact_binomial", "chi_squared"] | None = None
    statistic: float | None = None
    p_value: float | None = None
    p_value_holm: float | None = None
    reason: PairReason | None = None
    message: str


class SeedGroup(BaseModel):
    """Jobs that differ in the seed alone (name, tags and metadata apart), or the replicas of one job.

    Means, sample standard deviations and 95 % intervals (Student's t) of the final scores over the distinct `seeds`
    that have a result; null, with a `note`, where there are fewer than two. A regression's errors are on the target's
    own scale.
    """

    over: Literal["jobs", "replicas"]
    jobs: list[UUID]
    seeds: list[int]
    n: int
    loss: ReplicaSplits | None
    accuracy: ReplicaSplits | None
    mse: ReplicaSplits | None
    mae: ReplicaSplits | None
    r2: ReplicaSplits | None
    note: str | None


class Comparison(BaseModel):
    """Jobs beside each other, in the order in which they were asked for."""

    jobs: list[ComparedJob]
    spec_differences: list[SpecDifference]
    network_differences: list[NetworkDifference]
    curves: ComparedCurves
    significance: list[PairSignificance]
    groups: list[SeedGroup]
