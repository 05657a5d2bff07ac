"""A regression: its loss, its metrics without accuracies, and its errors against scikit-learn."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics
from torch.nn import functional

from harness.training import Fresh, MakeJob, MakeSplit
from models.errors import NonFiniteLoss
from models.result import Scale
from worker.training.data import DeviceSplit
from worker.training.latency import measure_latency
from worker.training.loop import evaluate, fit, train_one_epoch
from worker.training.scores import regression_scores

TABLE: dict[str, Any] = {"name": "table", "file": "houses.csv", "target": "price", "features": ["a", "b", "c", "d"]}
LINEAR: dict[str, Any] = {"name": "sequential", "layers": [{"kind": "linear", "out_features": 1}]}
NETWORK: dict[str, Any] = {"name": "mlp", "hidden": [16], "activation": "tanh"}


def test_rows_are_used_as_they_are(rows: MakeSplit) -> None:
    split = rows(10)
    inputs, targets = split.batch(torch.tensor([3, 1]))
    assert (inputs.dtype, targets.dtype) == (torch.float32, torch.float32)
    assert torch.equal(inputs, split.inputs[[3, 1]])
    assert torch.equal(targets, split.targets[[3, 1]])


def test_a_table_of_classes_has_labels() -> None:
    labels = np.array([0, 2, 1])
    split = DeviceSplit(np.zeros((3, 2), np.float32), labels, device=torch.device("cpu"))
    assert split.batch(slice(None))[1].dtype == torch.int64


def test_a_step_is_the_one_by_hand(rows: MakeSplit, job: MakeJob, fresh: Fresh) -> None:
    train = rows(20)
    spec = job(LINEAR, dataset=TABLE, epochs=1, batch_size=20, l2_penalty=0.03)
    state = fresh(spec)
    weight, bias = (parameter.detach().clone() for parameter in state.network.parameters())
    errors = (train.inputs @ weight.T).squeeze(1) + bias - train.targets

    loss, accuracy, penalty = train_one_epoch(state, spec.training, train, epoch=1)
    assert loss == pytest.approx(errors.square().mean().item(), rel=1e-6)
    assert accuracy is None
    assert penalty == pytest.approx(0.03 * (weight.square().sum() + bias.square().sum()).item(), rel=1e-6)
    new_weight, new_bias = state.network.parameters()
    gradient = 2 * (errors[:, None] * train.inputs).mean(0) + 2 * 0.03 * weight
    torch.testing.assert_close(new_weight, weight - 0.05 * gradient, atol=1e-6, rtol=0)
    torch.testing.assert_close(new_bias, bias - 0.05 * (2 * errors.mean() + 2 * 0.03 * bias), atol=1e-6, rtol=0)


def test_a_regression_learns_and_reports_no_accuracy(rows: MakeSplit, job: MakeJob, fresh: Fresh) -> None:
    train, validation = rows(200), rows(60, seed=1)
    optimizer = {"name": "adam", "learning_rate": 0.01}
    spec = job(NETWORK, dataset=TABLE, epochs=30, batch_size=32, optimizer=optimizer, evaluate_before_training=True)
    state = fresh(spec)
    epochs = list(fit(state, spec.training, train, validation))
    assert all(metrics.train_accuracy is None for metrics in epochs)
    assert all(metrics.validation_accuracy is None for metrics in epochs)
    assert [metrics.epoch for metrics in epochs] == list(range(31))

    measured = evaluate(state, validation)
    assert measured.accuracy is None
    assert measured.loss == epochs[-1].validation_loss
    assert (measured.predictions.shape, measured.predictions.dtype) == ((60,), torch.float32)
    assert torch.equal(measured.targets, validation.targets)
    scores = regression_scores(measured.targets, measured.predictions)
    assert scores.mse == pytest.approx(measured.loss, rel=1e-12), "a result says the same in both places"
    assert scores.r2 is not None
    assert scores.r2 > 0.9
    assert epochs[-1].train_loss < 0.1 * epochs[0].train_loss

    latency = measure_latency(state, validation)
    assert (latency.batch_1.batch_size, latency.batch_100.batch_size) == (1, 100)


def test_an_evaluation_in_batches_is_the_one_in_a_single_batch(rows: MakeSplit, job: MakeJob, fresh: Fresh) -> None:
    state, split = fresh(job(NETWORK, dataset=TABLE)), rows(70)
    whole = evaluate(state, split)
    state.evaluation_batch = 16
    in_parts = evaluate(state, split)
    assert in_parts.loss == pytest.approx(whole.loss, rel=1e-6)
    torch.testing.assert_close(in_parts.predictions, whole.predictions)
    with torch.no_grad():
        expected = functional.mse_loss(state.network(split.inputs).squeeze(1), split.targets)
    assert whole.loss == pytest.approx(expected.item(), rel=1e-6)


def test_a_loss_that_is_not_finite_names_its_step(rows: MakeSplit, job: MakeJob, fresh: Fresh) -> None:
    spec = job(LINEAR, dataset=TABLE, epochs=50, batch_size=50, learning_rate=1_000.0)
    state = fresh(spec)
    with pytest.raises(NonFiniteLoss, match=r"epoch \d+, step [12] of 2\.$"):
        list(fit(state, spec.training, rows(100), None))
    assert all(math.isfinite(metrics.train_loss) for metrics in state.history)


@given(
    pairs=st.lists(st.tuples(*[st.floats(-1e3, 1e3, width=32)] * 2), min_size=2, max_size=50),
    scale=st.builds(Scale, shift=st.floats(-1e4, 1e4), scale=st.floats(0.1, 1e4)),
)
def test_errors_are_those_of_scikit_learn_on_either_scale(pairs: list[tuple[float, float]], scale: Scale) -> None:
    actual, predicted = (np.array(values) for values in zip(*pairs, strict=True))
    require_sklearn_agrees(actual, predicted, Scale(shift=0.0, scale=1.0))
    require_sklearn_agrees(actual, predicted, scale)


def require_sklearn_agrees(actual: np.ndarray, predicted: np.ndarray, scale: Scale) -> None:
    as_tensors = torch.tensor(actual, dtype=torch.float32), torch.tensor(predicted, dtype=torch.float32)
    scores = regression_scores(*as_tensors, scale)
    actual, predicted = actual * scale.scale + scale.shift, predicted * scale.scale + scale.shift
    assert scores.mse == pytest.approx(sklearn_metrics.mean_squared_error(actual, predicted), rel=1e-9)
    assert scores.mae == pytest.approx(sklearn_metrics.mean_absolute_error(actual, predicted), rel=1e-9)
    if len(set(actual)) == 1:
        assert scores.r2 is None
    else:
        assert scores.r2 == pytest.approx(sklearn_metrics.r2_score(actual, predicted), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("value", [0.1, 1e7 + 0.3])
def test_targets_that_are_all_equal_have_no_r2(value: float) -> None:
    scores = regression_scores(torch.full((7,), value), torch.linspace(0, 1, 7), Scale(shift=0.3, scale=0.7))
    assert scores.r2 is None
    assert scores.mse > 0
