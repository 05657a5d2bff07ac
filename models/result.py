"""The shapes of what a job reports: the metrics of an epoch and the whole result."""

from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from models.datasets import Task
from models.replicas import ReplicaEpoch, ReplicasReport
from models.shapes import Shape, only_where_there_is_one

Level = Literal["info", "warning", "error"]
_LONG = frozenset({"curves", "confusion_matrix", "classification_report", "diagnosis", "spec"})


def essentials(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result's JSON without what grows with its epochs and classes, and without the spec."""
    kept = {name: value for name, value in result.items() if name not in _LONG}
    if kept.get("replicas") is not None:
        kept["replicas"] = {name: value for name, value in kept["replicas"].items() if name != "curves"}
    return kept


class EpochMetrics(Shape):
    """One finished epoch; losses are means over samples, without the penalty; times are wall-clock seconds.

    Training figures are accumulated during the epoch in train mode, validation follows it in eval mode. Epoch 0 is the
    untrained network, all in eval mode. A regression has no accuracies. `learning_rate` is that of the first step.
    `seconds` covers training and validation, `train_seconds` the training alone. In a job with replicas the figures are
    those of the first, the times those of all together, and `replicas` holds the figures of all.
    """

    epoch: int
    train_loss: float
    train_accuracy: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    learning_rate: float
    penalty: float
    seconds: float
    train_seconds: float
    replicas: ReplicaEpoch | None = only_where_there_is_one()


class Spread(Shape):
    """Seconds per epoch."""

    mean: float
    median: float
    min: float
    max: float


class Latency(Shape):
    """Time of a forward pass in eval mode, divided by the batch size, over `runs` passes after warm-up."""

    batch_size: int
    runs: int
    median_seconds_per_sample: float
    p95_seconds_per_sample: float


class LatencyByBatch(Shape):
    """Latency one sample at a time and a hundred at a time."""

    batch_1: Latency
    batch_100: Latency


class Startup(Shape):
    """The seconds of `setup_seconds` by what they went to: process, imports, data, network with checkpoint, device."""

    process_seconds: float
    import_seconds: float
    data_seconds: float
    network_seconds: float
    device_seconds: float


class Timing(Shape):
    """Wall-clock seconds: waiting, preparing, all epochs, measuring at the end, and from submit to finish.

    Beside them the most memory that the runner ever had, of the host and of the GPU, in bytes.
    """

    queued_seconds: float
    setup_seconds: float
    startup: Startup
    training_seconds: float
    evaluation_seconds: float
    total_seconds: float
    epoch_seconds: Spread
    samples_per_second: float
    latency: LatencyByBatch
    peak_memory_bytes: int
    peak_gpu_memory_bytes: int | None


class PerSplit(Shape):
    """One figure per split, each measured in eval mode on the whole split; null where a split does not exist."""

    train: float
    validation: float | None
    test: float


class RegressionScores(Shape):
    """Mean squared error, mean absolute error and coefficient of determination over a split, in eval mode.

    `r2` is 1 - SSE / SST as in sklearn.metrics.r2_score; null where all targets are equal.
    """

    mse: float
    mae: float
    r2: float | None


class RegressionSplits(Shape):
    """The scores of each split; null where a split does not exist."""

    train: RegressionScores
    validation: RegressionScores | None
    test: RegressionScores


class RegressionReport(Shape):
    """The errors on the scale that the network learned, and on the target's own."""

    target: str
    scaled: RegressionSplits
    original: RegressionSplits


class EarlyStop(Shape):
    """How early stopping went: the best epoch by its metric, and whether the training stopped before its last epoch."""

    metric: str
    best_epoch: int
    best_value: float
    stopped: bool


class Curves(Shape):
    """One entry per epoch in each list."""

    epoch: list[int]
    train_loss: list[float]
    train_accuracy: list[float | None]
    validation_loss: list[float | None]
    validation_accuracy: list[float | None]
    learning_rate: list[float]
    penalty: list[float]
    seconds: list[float]


class LayerCounts(Shape):
    """One layer: its place, kind, output shape per sample, parameters (counted once) and MACs of all applications.

    `applied` says how often the one module is applied; `layers` are those inside a residual block.
    """

    layer: int
    kind: str
    output_shape: list[int]
    parameters: int
    macs: int
    applied: int = 1
    layers: list["LayerCounts"] = Field(default=[])


class Parameters(Shape):
    """Parameters, counted once each."""

    total: int
    trainable: int
    layers: list[LayerCounts]


class ClassScores(Shape):
    """Scores of one class as in scikit-learn with zero_division=0; support is its number of samples."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


class AverageScores(Shape):
    """Precision, recall and F1 averaged over classes."""

    precision: float
    recall: float
    f1: float
    support: int


class ClassificationReport(Shape):
    """Per-class scores on the test split and their averages."""

    split: Literal["test"]
    classes: list[ClassScores]
    accuracy: float
    macro_average: AverageScores
    weighted_average: AverageScores


class Environment(Shape):
    """The machine and the software that the job ran on; sizes in bytes."""

    processor: str
    cores: int
    threads: int
    memory_bytes: int
    device: str
    gpus: int  # that trained it together, all of the same kind; 0 on a CPU
    gpu: str | None
    gpu_memory_bytes: int | None
    system: str
    python: str
    torch: str
    torchvision: str | None
    cuda: str | None
    git_commit: str | None


class SplitCounts(Shape):
    """Samples of one split, in all and by class (no classes in a regression)."""

    samples: int
    classes: dict[str, int]


class Scale(Shape):
    """A value x became (x - shift) / scale."""

    shift: float
    scale: float


class DatasetReport(Shape):
    """The data as they were used; the checksum is over the decoded arrays.

    `shared_samples` counts, for each pair of splits ("train/test"), the samples of the second whose content also stands
    in the first. `scaling` says what was subtracted and divided by, per channel or per column.
    """

    name: str
    input_shape: list[int]
    checksum: str
    splits: dict[str, SplitCounts]
    shared_samples: dict[str, int]
    scaling: dict[str, Scale]


class Diagnosis(Shape):
    """Something a reader of the result should know, with the numbers that it rests on."""

    code: str
    level: Level
    message: str
    evidence: dict[str, Any]


class InitialWeights(Shape):
    """Where the weights came from that a training began with: the checkpoint of an epoch of another job."""

    job: UUID
    which: Literal["best", "last"]
    epoch: int
    sha256: str


class Result(Shape):
    """Everything that a report about one job needs; what each number means is in docs/numbers.md.

    A regression has `regression` in place of accuracy, confusion matrix and classification report. A job with replicas
    has `replicas` beside the figures of the first of them; one that began with the weights of another job has
    `initial_checkpoint`.
    """

    task: Task
    timing: Timing
    loss: PerSplit
    accuracy: PerSplit | None
    regression: RegressionReport | None
    penalty: float
    best_epoch: int
    worst_epoch: int
    weights_epoch: int
    early_stopping: EarlyStop | None
    curves: Curves
    replicas: ReplicasReport | None = only_where_there_is_one()
    parameters: Parameters
    macs_per_sample: int
    flops_per_sample: int
    confusion_matrix: list[list[int]] | None
    classification_report: ClassificationReport | None
    environment: Environment
    dataset: DatasetReport
    seed: int
    initial_checkpoint: InitialWeights | None = only_where_there_is_one()
    spec: dict[str, Any]
    diagnosis: list[Diagnosis]
