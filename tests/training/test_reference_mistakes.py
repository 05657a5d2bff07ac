"""The mistakes found in the reference runs, row by row: each is impossible here, or a result says it aloud."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.training import MakeJob
from models.result import Diagnosis, Result
from models.spec import JobSpec
from worker.training.data import DeviceSplit
from worker.training.loop import evaluate, fit
from worker.training.scores import classification_report, confusion_matrix
from worker.training.state import TrainState

RunJob = Callable[[JobSpec], Result]
SHARING = {"name": "resnet", "channels": 4, "blocks": 3, "hidden": [8]}


def said(result: Result, code: str) -> list[Diagnosis]:
    return [diagnosis for diagnosis in result.diagnosis if diagnosis.code == code]


def test_a_network_left_in_training_mode_is_evaluated_in_eval_mode(
    job: MakeJob, fresh: Callable[[JobSpec], TrainState], pictures: Callable[..., DeviceSplit]
) -> None:
    state = fresh(job({"name": "mlp", "dropout": 0.9}))
    split = pictures(200)
    state.network.train()
    first = evaluate(state, split)
    state.network.train()
    assert evaluate(state, split).loss == first.loss, "dropout would make each evaluation another"


def test_the_report_is_of_the_test_split_alone_and_its_rows_are_the_true_classes(
    job: MakeJob, result_of: RunJob
) -> None:
    result = result_of(job({"name": "mlp"}, epochs=2))
    assert result.classification_report is not None
    assert result.confusion_matrix is not None
    assert result.classification_report.split == "test"
    assert [sum(row) for row in result.confusion_matrix] == list(result.dataset.splits["test"].classes.values())

    # Two samples of class 0, both taken for 1, and one of class 1: with arguments swapped the two change places.
    matrix = confusion_matrix(torch.tensor([0, 0, 1]), torch.tensor([1, 1, 1]), 2)
    assert matrix == [[0, 2], [0, 1]]
    of_one = classification_report(matrix, ["zero", "one"]).classes[1]
    assert of_one.precision == pytest.approx(1 / 3)
    assert of_one.recall == 1.0


def test_the_optimiser_holds_the_parameters_of_its_own_network(
    job: MakeJob, fresh: Callable[[JobSpec], TrainState]
) -> None:
    for name in ("sgd", "adam", "adamw", "rmsprop"):
        state = fresh(job(SHARING, optimizer={"name": name}))
        held = [id(parameter) for group in state.optimizer.param_groups for parameter in group["params"]]
        assert held == [id(parameter) for parameter in state.network.parameters()]


def test_a_loss_that_does_not_move_is_said_aloud(job: MakeJob, result_of: RunJob) -> None:
    (diagnosis,) = said(result_of(job({"name": "mlp"}, epochs=3, learning_rate=1e-12)), "loss_did_not_move")
    assert diagnosis.level == "error"
    assert not said(result_of(job({"name": "mlp"}, epochs=3)), "loss_did_not_move")


def test_a_block_is_repeated_by_reference_only_where_the_spec_says_so(job: MakeJob, result_of: RunJob) -> None:
    apart = result_of(job(SHARING, epochs=1))
    shared = result_of(job(SHARING | {"share_weights": True}, epochs=1))
    assert not said(apart, "weights_shared")
    assert said(shared, "weights_shared")[0].evidence["times"] == [3]
    block = 4 * 4 * 9 + 4
    assert apart.parameters.total - shared.parameters.total == 2 * block
    assert apart.macs_per_sample == shared.macs_per_sample


def test_a_penalty_is_no_part_of_a_reported_loss(
    job: MakeJob, fresh: Callable[[JobSpec], TrainState], pictures: Callable[..., DeviceSplit]
) -> None:
    train = pictures(100)

    def first_epoch(**training: Any) -> Any:
        spec = job({"name": "mlp"}, epochs=1, batch_size=100, **training)
        return next(fit(fresh(spec), spec.training, train, None))

    plain, penalised = first_epoch(), first_epoch(l2_penalty=0.5)
    assert penalised.train_loss == plain.train_loss, "one step: both are of the initial weights"
    assert (plain.penalty, penalised.penalty > 1) == (0.0, True)


@pytest.mark.parametrize("batch_size", [1, 64])
def test_macs_are_per_sample_of_the_data_sets_own_shape(job: MakeJob, batch_size: int) -> None:
    summary = job(
        {"name": "mlp", "hidden": [512], "activation": "tanh"}, dataset="cifar10", batch_size=batch_size
    ).summary()
    assert summary is not None
    assert summary.macs == 1_577_984


def test_a_regression_has_no_accuracy(job: MakeJob, result_of: RunJob, digits_cache: Path) -> None:
    (digits_cache / "tables").mkdir(exist_ok=True)
    (digits_cache / "tables" / "line.csv").write_text("x,y\n" + "".join(f"{x},{2 * x}\n" for x in range(50)))
    line = {"name": "table", "file": "line.csv", "target": "y", "features": ["x"]}
    result = result_of(job({"name": "mlp"}, dataset=line, epochs=2))
    assert (result.accuracy, result.classification_report, result.confusion_matrix) == (None, None, None)
    assert set(result.curves.train_accuracy) == set(result.curves.validation_accuracy) == {None}
    assert result.regression is not None


def test_a_result_is_of_the_spec_that_it_holds(job: MakeJob, result_of: RunJob) -> None:
    spec = job({"name": "mlp", "hidden": [5]}, epochs=1)
    result = result_of(spec)
    assert result.spec == spec.as_json()
    assert (result.seed, result.parameters.total) == (7, 64 * 5 + 5 + 5 * 10 + 10)


def test_the_test_split_as_validation_is_said_aloud(job: MakeJob, result_of: RunJob) -> None:
    on_test = result_of(job({"name": "mlp"}, dataset={"name": "digits", "validation": "test"}, epochs=1))
    assert said(on_test, "validated_on_test")[0].level == "warning"
    assert not said(result_of(job({"name": "mlp"}, epochs=1)), "validated_on_test")


def test_validation_follows_the_training_of_its_epoch_and_epoch_0_is_the_untrained_network(
    job: MakeJob, fresh: Callable[[JobSpec], TrainState], pictures: Callable[..., DeviceSplit]
) -> None:
    spec = job({"name": "mlp"}, epochs=2, evaluate_before_training=True)
    train, validation = pictures(200), pictures(100, seed=1)
    untrained = evaluate(fresh(spec), validation).loss
    state = fresh(spec)
    for metrics in fit(state, spec.training, train, validation):
        assert metrics.validation_loss == evaluate(state, validation).loss, "of the weights as they now are"
        assert (metrics.validation_loss == untrained) is (metrics.epoch == 0)
