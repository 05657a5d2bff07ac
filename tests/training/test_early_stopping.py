"""Early stopping: when it stops, which weights it leaves, and that a resume at any epoch changes neither."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.training import Fresh, MakeJob, MakeSplit
from models.result import EpochMetrics
from models.spec import JobSpec
from models.training_spec import EarlyStopping, StoppingMetric
from worker.training.data import DeviceSplit
from worker.training.early_stopping import BestEpoch, better_of, patience_is_over
from worker.training.loop import evaluate, fit
from worker.training.state import TrainState

OVERFITTING: dict[str, Any] = {"name": "mlp", "hidden": [64], "dropout": 0.2}


def metrics_of(epoch: int, metric: StoppingMetric, value: float) -> EpochMetrics:
    values: dict[str, Any] = dict.fromkeys(EpochMetrics.model_fields, 0.0) | {"replicas": None}
    return EpochMetrics.model_validate(values | {"epoch": epoch, metric: value})


@pytest.mark.parametrize(
    ("metric", "min_delta", "values", "best_epochs"),
    [
        ("validation_loss", 0.0, [3.0, 2.0, 2.0, 2.5, 1.9], [1, 2, 2, 2, 5]),
        ("validation_loss", 0.25, [3.0, 2.75, 2.5, 2.25, 1.75], [1, 1, 3, 3, 5]),
        ("train_loss", 0.0, [1.0, 0.5, 0.25], [1, 2, 3]),
        ("validation_accuracy", 0.0, [0.5, 0.75, 0.75, 0.25, 1.0], [1, 2, 2, 2, 5]),
        ("validation_accuracy", 0.25, [0.25, 0.5, 0.75], [1, 1, 3]),
    ],
)
def test_an_improvement_is_larger_than_min_delta(
    metric: StoppingMetric, min_delta: float, values: list[float], best_epochs: list[int]
) -> None:
    wanted = EarlyStopping(metric=metric, min_delta=min_delta, patience=2)
    network = nn.Linear(1, 1)
    best: BestEpoch | None = None
    for epoch, (value, expected) in enumerate(zip(values, best_epochs, strict=True), start=1):
        nn.init.constant_(network.weight, float(epoch))
        best = better_of(best, metrics_of(epoch, metric, value), network, wanted)
        assert (best.epoch, best.value) == (expected, values[expected - 1])
        assert best.weights["weight"].item() == expected, "the weights are a copy, and of the best epoch"
        assert patience_is_over(best, epoch, wanted) == (epoch - expected >= 2)


@pytest.fixture
def train(pictures: MakeSplit) -> DeviceSplit:
    return pictures(60)


@pytest.fixture
def validation(pictures: MakeSplit) -> DeviceSplit:
    """Pictures of which a third have a wrong label: the surer the network, the higher its loss on them."""
    split = pictures(60, seed=1)
    split.targets[::3] = (split.targets[::3] + 1) % 10
    return split


def overfitting(job: MakeJob, *, epochs: int = 60, patience: int = 4, **more: Any) -> JobSpec:
    stopping = {"metric": "validation_loss", "patience": patience} | more
    return job(OVERFITTING, epochs=epochs, batch_size=20, learning_rate=0.3, early_stopping=stopping)


def weights_of(state: TrainState) -> list[Tensor]:
    return [tensor.clone() for tensor in state.network.state_dict().values()]


def same(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


def test_a_training_stops_when_patience_is_over_and_leaves_the_best_weights(
    train: DeviceSplit, validation: DeviceSplit, job: MakeJob, fresh: Fresh
) -> None:
    spec = overfitting(job)
    state = fresh(spec)
    after_epoch = {}
    for metrics in fit(state, spec.training, train, validation):
        after_epoch[metrics.epoch] = weights_of(state)
    losses = [metrics.validation_loss for metrics in state.history]
    lowest = 1 + losses.index(min(loss for loss in losses if loss is not None))

    assert state.best is not None
    assert len(losses) == lowest + 4 < 60
    assert (state.best.epoch, state.best.value, state.stopped_early) == (lowest, losses[lowest - 1], True)
    assert state.weights_epoch == lowest
    assert same(weights_of(state), after_epoch[lowest])
    assert not same(weights_of(state), after_epoch[lowest + 4])
    assert evaluate(state, validation).loss == losses[lowest - 1]


@pytest.mark.parametrize("from_the_end", [0, 1, 3])
def test_a_training_that_reaches_its_last_epoch_did_not_stop_early_and_leaves_the_best_weights_too(
    train: DeviceSplit, validation: DeviceSplit, job: MakeJob, fresh: Fresh, from_the_end: int
) -> None:
    spec = overfitting(job)
    state = fresh(spec)
    list(fit(state, spec.training, train, validation))
    stopped_at = state.history[-1].epoch
    best = state.weights_epoch

    spec = overfitting(job, epochs=stopped_at - from_the_end)
    state = fresh(spec)
    epochs = list(fit(state, spec.training, train, validation))
    assert len(epochs) == stopped_at - from_the_end
    assert not state.stopped_early
    assert state.weights_epoch == best < len(epochs)
    assert evaluate(state, validation).loss == epochs[best - 1].validation_loss


def test_a_resume_at_any_epoch_stops_where_the_unbroken_training_does(
    train: DeviceSplit, validation: DeviceSplit, job: MakeJob, fresh: Fresh
) -> None:
    spec = overfitting(job)
    unbroken = fresh(spec)
    checkpoints = []
    for _ in fit(unbroken, spec.training, train, validation):
        state_dict = unbroken.state_dict()
        # A file would hold the values of this moment.
        copy = fresh(spec)
        copy.load_state_dict(state_dict)
        checkpoints.append(copy.state_dict())
    losses = [metrics.validation_loss for metrics in unbroken.history]
    for epoch, checkpoint in enumerate(checkpoints, start=1):
        state = fresh(spec)
        state.load_state_dict(checkpoint)
        trained = list(fit(state, spec.training, train, validation))
        assert [metrics.epoch for metrics in trained] == list(range(epoch + 1, len(losses) + 1))
        assert [metrics.validation_loss for metrics in state.history] == losses
        assert (state.weights_epoch, state.stopped_early) == (unbroken.weights_epoch, True)
        assert same(weights_of(state), weights_of(unbroken))


def test_whoever_leaves_the_iteration_keeps_the_weights_of_the_epoch(
    train: DeviceSplit, validation: DeviceSplit, job: MakeJob, fresh: Fresh
) -> None:
    spec = overfitting(job)
    state = fresh(spec)
    iteration = fit(state, spec.training, train, validation)
    while state.best is None or not state.history or state.history[-1].epoch == state.best.epoch:
        next(iteration)
    left = weights_of(state)
    del iteration
    assert same(weights_of(state), left)
    assert not same(weights_of(state), list(state.best.weights.values()))


def test_without_early_stopping_nothing_is_kept_and_the_last_weights_stay(
    train: DeviceSplit, validation: DeviceSplit, job: MakeJob, fresh: Fresh
) -> None:
    spec = job(OVERFITTING, epochs=30, batch_size=20, learning_rate=0.3)
    state = fresh(spec)
    epochs = list(fit(state, spec.training, train, validation))
    assert (state.best, state.stopped_early, state.weights_epoch) == (None, False, 30)
    assert evaluate(state, validation).loss == epochs[-1].validation_loss


def test_the_untrained_network_is_no_best_epoch(
    train: DeviceSplit, validation: DeviceSplit, job: MakeJob, fresh: Fresh
) -> None:
    # At such a rate the first epoch is worse than no training.
    spec = job(
        OVERFITTING,
        epochs=5,
        batch_size=20,
        learning_rate=30.0,
        early_stopping={"patience": 1},
        evaluate_before_training=True,
    )
    state = fresh(spec)
    list(fit(state, spec.training, train, validation))
    losses = [metrics.validation_loss for metrics in state.history]
    assert losses.index(min(loss for loss in losses if loss is not None)) == 0
    assert state.weights_epoch > 0
