"""The shapes of what several replicas of one job say together: figures, curves, and their part of the result."""

from models.shapes import Shape


class ReplicaFigure(Shape):
    """One figure of all replicas: mean, sample standard deviation (n - 1), and each value in the order of the seeds."""

    mean: float
    standard_deviation: float
    values: list[float]


class ReplicaScore(ReplicaFigure):
    """A final score of all replicas; `interval_95` holds the mean with a confidence of 95 % (Student's t, n - 1)."""

    interval_95: tuple[float, float]


class ReplicaSplits(Shape):
    """One score per split; null where a split, or the score of any replica, does not exist."""

    train: ReplicaScore | None
    validation: ReplicaScore | None
    test: ReplicaScore | None


class ReplicaEpoch(Shape):
    """One epoch of all replicas; each figure is that of `EpochMetrics`."""

    train_loss: ReplicaFigure
    train_accuracy: ReplicaFigure | None
    validation_loss: ReplicaFigure | None
    validation_accuracy: ReplicaFigure | None
    penalty: ReplicaFigure


class ReplicaCurve(Shape):
    """One entry per epoch in each list."""

    mean: list[float]
    standard_deviation: list[float]


class ReplicaCurves(Shape):
    """The curves of `Curves` over all replicas; null where there is none."""

    epoch: list[int]
    train_loss: ReplicaCurve
    train_accuracy: ReplicaCurve | None
    validation_loss: ReplicaCurve | None
    validation_accuracy: ReplicaCurve | None
    penalty: ReplicaCurve


class ReplicasReport(Shape):
    """What the replicas of a job say together; all else in its result is of the first of the `seeds`.

    `note` says why they were trained in turn, where they were not `vectorised`. A classification has `accuracy`; a
    regression has `mse`, `mae` and `r2` in its place, on the target's own scale, since each replica scales by its own
    training rows.
    """

    seeds: list[int]
    vectorised: bool
    note: str | None
    loss: ReplicaSplits
    accuracy: ReplicaSplits | None
    mse: ReplicaSplits | None
    mae: ReplicaSplits | None
    r2: ReplicaSplits | None
    curves: ReplicaCurves
