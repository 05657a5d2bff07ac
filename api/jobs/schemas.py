"""What the API shows of a job; field names are frozen."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, model_serializer

from models.job import Status
from models.memory import bytes_at_least
from models.network import LayerSummary
from models.records import Epoch
from models.replicas import ReplicaEpoch
from models.shapes import only_where_there_is_one
from models.spec import MAX_TAGS, JobSpec, Priority
from models.validation import Name, Strict, Tag
from models.wait_reason import NoEstimate, WaitReason


class EpochView(BaseModel):
    """One finished epoch; losses are means over samples without the penalty, accuracies are fractions.

    Epoch 0 is the untrained network, where the spec asks for it. A regression has no accuracies; its loss is the mean
    squared error on the scale that the network learns. In a job with replicas the figures are those of the first, the
    seconds those of all together, and `replicas` holds the figures of all; other jobs do not have that field. A figure
    that is not a finite number is null; one that was not asked for is not there.
    """

    epoch: int
    train_loss: float | None = None
    train_accuracy: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    learning_rate: float | None = None
    seconds: float | None = None
    replicas: ReplicaEpoch | None = only_where_there_is_one()

    @classmethod
    def of(cls, row: Epoch) -> "EpochView":
        """Show a row."""
        return cls.model_validate(row, from_attributes=True)


class TransitionView(BaseModel):
    """One change of status."""

    from_status: Status | None
    to_status: Status
    reason: str | None
    message: str | None
    attempt: int
    at: datetime


class Progress(BaseModel):
    """Finished epochs of all epochs."""

    epoch: int
    epochs: int


class TestScores(BaseModel):
    """What the test split says of a succeeded job; a regression has no accuracy."""

    accuracy: float | None
    loss: float | None


class JobQueue(BaseModel):
    """The queue of a job; but for `name` it is worked out in `GET /jobs/{id}` alone, and not there elsewhere.

    `position` counts from 1 over the whole lab; it, `reason` and `message` are null unless the job waits. `starts_at`
    and `finishes_at` are estimates from what like jobs took: of a waiting or running job; where one of them is null,
    `no_estimate` says why. A line is worked out every two seconds at most: a job that came since has no position yet.
    """

    name: str
    position: int | None = None
    reason: WaitReason | None = None
    message: str | None = None
    starts_at: datetime | None = None
    finishes_at: datetime | None = None
    no_estimate: NoEstimate | None = None

    @model_serializer(mode="wrap")
    def _only_what_was_worked_out(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in whole(self).items() if name in self.model_fields_set}


class JobView(BaseModel):
    """A job as it stands; `best` is the trained epoch of the highest accuracy, of a regression of the lowest loss.

    It is judged by the validation split where there is one, and the earliest of equals.
    """

    id: UUID
    user: str
    sweep: UUID | None
    queue: JobQueue
    priority: int
    name: str | None
    status: Status
    reason: str | None
    message: str | None
    attempt: int
    retries: int = Field(description="Attempts that failed and were followed by another; a person's retry begins anew.")
    progress: Progress
    last: EpochView | None
    best: EpochView | None
    test: TestScores | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    transitions: list[TransitionView]
    spec: dict[str, Any]


class JobChange(Strict):
    """What is to change of a waiting job; what is left out, or null, stays: only a name that is null is taken away."""

    priority: Priority | None = None
    name: Name | None = None
    tags: Annotated[list[Tag], Field(max_length=MAX_TAGS)] | None = None

    def wanted(self) -> dict[str, Any]:
        """Return the fields that are to have these values."""
        return {
            name: value
            for name, value in self.model_dump(exclude_unset=True).items()
            if value is not None or name == "name"
        }


JobPart = Annotated[dict[str, Any], Field(description="Of a JobView the fields that `fields` asked for")]


class JobPage(BaseModel):
    """Jobs in the order asked for; `next` is the `after` of the following page, null at the end."""

    items: list[JobView | JobPart]
    next: str | None


class LogEntry(BaseModel):
    """A piece of what the runner printed."""

    attempt: int
    at: datetime
    text: str


class LogView(BaseModel):
    """The job's log, oldest piece first; of a long log the newest part is kept."""

    job_id: UUID
    entries: list[LogEntry]


class LayerView(BaseModel):
    """One layer; shapes are per sample, without the batch; parameters once, MACs of all applications.

    `applied` says how often the one module is applied; `layers` are those inside a residual block.
    """

    layer: int
    kind: str
    input_shape: list[int]
    output_shape: list[int]
    parameters: int
    macs: int
    applied: int
    layers: list["LayerView"]

    @classmethod
    def of(cls, place: LayerSummary) -> "LayerView":
        """Show a layer in its place."""
        return cls(
            layer=place.index,
            kind=place.kind,
            input_shape=list(place.input_shape),
            output_shape=list(place.output_shape),
            parameters=place.parameters,
            macs=place.macs,
            applied=place.applied,
            layers=[cls.of(inner) for inner in place.layers],
        )


class ValidatedView(BaseModel):
    """A spec with every default filled in, and what its network costs per sample.

    The counts of a `torchvision` network are null: they are known when a worker has built it, and stand in the result.
    """

    spec: dict[str, Any]
    layers: list[LayerView]
    input_shape: list[int]
    output_shape: list[int]
    parameters: int | None
    macs_per_sample: int | None
    flops_per_sample: int | None
    memory_bytes_at_least: int | None = Field(
        description="Weights, gradients, the optimiser's state and the largest tensor of a batch, of one replica; a "
        "training needs several times as much."
    )

    @classmethod
    def of(cls, spec: JobSpec) -> "ValidatedView":
        """Show a resolved spec and its network."""
        summary = spec.summary()
        return cls(
            spec=spec.as_json(),
            layers=[LayerView.of(place) for place in summary.layers] if summary else [],
            input_shape=list(spec.dataset.input_shape),
            output_shape=[spec.dataset.outputs],
            parameters=summary.parameters if summary else None,
            macs_per_sample=summary.macs if summary else None,
            flops_per_sample=2 * summary.macs if summary else None,
            memory_bytes_at_least=bytes_at_least(summary, spec.training, spec.dataset) if summary else None,
        )
