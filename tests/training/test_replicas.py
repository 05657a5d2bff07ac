"""Replicas: each equals the single job with its seed, in turn to the bit, stacked within rounding."""

import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats  # type: ignore[import-untyped]
from torch import Tensor

from harness.training import Fresh, MakeJob, MakeSplit
from models.across_seeds import figure_of, score_of
from models.errors import InvalidSpec, NonFiniteLoss
from models.result import EpochMetrics, Result
from models.spec import JobSpec
from models.training_spec import MAX_SEED
from worker import datasets
from worker.networks import build_network
from worker.training.across_replicas import combine
from worker.training.data import DeviceSplit
from worker.training.graphs import Recorder
from worker.training.loop import fit
from worker.training.replicas import Replicas
from worker.training.splits import Splits, put_splits
from worker.training.state import TrainState
from worker.training.vectorised import Group, group_sizes, train_together, why_in_turn

ResultOf = Callable[[JobSpec], Result]
Exactly = Callable[[Any], Any]

CPU = torch.device("cpu")
WEIGHTS = Path("no-weights")
EPOCHS = 3
FIGURES = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "penalty")
IN_TURN: dict[str, Any] = {
    "epochs": EPOCHS,
    "batch_size": 24,
    "optimizer": {"momentum": 0.9},
    "augmentation": {"random_crop": {"padding": 1}, "horizontal_flip": 0.5, "cutout": {"size": 3}},
    "evaluate_before_training": True,
}
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"name": "mlp", "hidden": [24, 16]},
    "cnn": {"name": "cnn", "channels": [6, 4], "hidden": [8]},
    "resnet": {"name": "resnet", "channels": 6, "blocks": 3, "share_weights": True, "hidden": [8]},
}
TABLE: dict[str, Any] = {
    "name": "table",
    "file": "hills.csv",
    "target": "height",
    "features": ["east", "north"],
    "validation": 0.2,
}


@pytest.fixture
def splits(pictures: MakeSplit) -> list[Splits]:
    """The same 100 training pictures for each of three replicas: batches of 24, and a last one of 4."""
    return [Splits(pictures(100), pictures(30, seed=1), pictures(30, seed=2))] * 3


def fresh_replicas(spec: JobSpec, *, stacked: bool = False) -> Replicas:
    replicas = Replicas.fresh(spec, CPU, weights=WEIGHTS, vectorise_on_cpu=stacked)
    assert (replicas.note is None) == stacked
    return replicas


def single_runs(spec: JobSpec, fresh: Fresh, splits: list[Splits]) -> list[TrainState]:
    """Train each of the seeds as a job of its own."""
    states = []
    for seed, own in zip(spec.training.seeds, splits, strict=True):
        training = spec.training.model_copy(update={"seed": seed, "replicas": 1})
        state = fresh(spec.model_copy(update={"training": training}))
        assert len(list(fit(state, training, own.train, own.validation))) == len(state.history)
        states.append(state)
    return states


def untimed(metrics: EpochMetrics) -> dict[str, Any]:
    return metrics.model_dump(exclude={"seconds", "train_seconds", "replicas"})


def test_replicas_in_turn_equal_the_single_jobs_to_the_bit(
    job: MakeJob, fresh: Fresh, splits: list[Splits], drawing_network: dict[str, Any], exactly: Exactly
) -> None:
    spec = job(drawing_network, replicas=3, **IN_TURN)
    replicas = fresh_replicas(spec)
    epochs = list(replicas.fit(spec.training, splits))
    singles = single_runs(spec, fresh, splits)
    assert [metrics.epoch for metrics in epochs] == [0, 1, 2, 3]
    for member, single in zip(replicas.members, singles, strict=True):
        assert [untimed(own) for own in member.state.history] == [untimed(alone) for alone in single.history]
    # The generators of the last single job are still the global ones: of the others the states without them.
    saved = [exactly(state) for state in replicas.state_dict()["replicas"]]
    alone = [exactly(single.state_dict()) for single in singles]
    assert saved[2] == alone[2]
    for own, single_state in zip(saved, alone, strict=True):
        own["generators"].pop("cpu")
        single_state["generators"].pop("cpu")
        assert own == single_state


def test_the_epochs_are_those_of_the_first_replica_with_all_beside_them(
    job: MakeJob, fresh: Fresh, splits: list[Splits], drawing_network: dict[str, Any]
) -> None:
    spec = job(drawing_network, replicas=3, **IN_TURN)
    epochs = list(fresh_replicas(spec).fit(spec.training, splits))
    singles = single_runs(spec, fresh, splits)
    for epoch, *alone in zip(epochs, *(single.history for single in singles), strict=True):
        assert untimed(epoch) == untimed(alone[0])
        assert epoch.replicas is not None
        for figure in FIGURES:
            values = [getattr(metrics, figure) for metrics in alone]
            together = getattr(epoch.replicas, figure)
            assert together.values == values
            assert together.mean == pytest.approx(np.mean(values))
            assert together.standard_deviation == pytest.approx(np.std(values, ddof=1))


def test_the_times_of_an_epoch_are_those_of_all_replicas_together(job: MakeJob, splits: list[Splits]) -> None:
    spec = job(NETWORKS["mlp"], epochs=1, replicas=3)
    replicas = fresh_replicas(spec)
    (epoch,) = replicas.fit(spec.training, splits)
    assert epoch.seconds == sum(member.state.history[0].seconds for member in replicas.members)
    assert epoch.train_seconds == sum(member.state.history[0].train_seconds for member in replicas.members)


@pytest.mark.parametrize("stacked", [False, True], ids=["in-turn", "stacked"])
def test_replicas_that_were_stopped_after_every_epoch_end_as_those_that_were_not(
    job: MakeJob, splits: list[Splits], stacked: bool, drawing_network: dict[str, Any], exactly: Exactly
) -> None:
    plain: dict[str, Any] = {"epochs": EPOCHS, "batch_size": 24, "optimizer": {"name": "adam"}}
    spec = job(NETWORKS["cnn"], replicas=3, **plain) if stacked else job(drawing_network, replicas=3, **IN_TURN)
    unbroken = fresh_replicas(spec, stacked=stacked)
    whole = [untimed(metrics) | {"all": metrics.replicas} for metrics in unbroken.fit(spec.training, splits)]

    replicas = fresh_replicas(spec, stacked=stacked)
    for _ in whole[:-1]:
        next(replicas.fit(spec.training, splits))
        checkpoint = io.BytesIO()
        torch.save(replicas.state_dict(), checkpoint)
        # Another process: its generators stand elsewhere.
        torch.manual_seed(12345)
        replicas = fresh_replicas(spec, stacked=stacked)
        torch.rand(17)
        replicas.load_state_dict(torch.load(io.BytesIO(checkpoint.getvalue()), weights_only=True))
    assert len(list(replicas.fit(spec.training, splits))) == 1
    assert [untimed(metrics) | {"all": metrics.replicas} for metrics in replicas.history] == whole
    assert exactly(replicas.state_dict()) == exactly(unbroken.state_dict())
    assert list(replicas.fit(spec.training, splits)) == []


OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}, "l2_penalty": 1e-3},
    "plain-sgd": {"gradient_clip_norm": 0.3},
    "adam": {"optimizer": {"name": "adam", "learning_rate": 0.003}, "label_smoothing": 0.1},
    "adamw": {"optimizer": {"name": "adamw", "learning_rate": 0.003}, "schedule": {"name": "cosine"}},
    "rmsprop": {"optimizer": {"name": "rmsprop", "learning_rate": 0.001, "momentum": 0.5}},
}


@pytest.mark.parametrize("training", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_stacked_replicas_equal_the_single_jobs_within_rounding(
    job: MakeJob, fresh: Fresh, splits: list[Splits], network: dict[str, Any], training: dict[str, Any]
) -> None:
    spec = job(network, replicas=3, epochs=EPOCHS, batch_size=24, **training)
    replicas = fresh_replicas(spec, stacked=True)
    assert len(list(replicas.fit(spec.training, splits))) == EPOCHS
    singles = single_runs(spec, fresh, splits)
    assert len({single.history[0].train_loss for single in singles}) == 3
    for member, single in zip(replicas.members, singles, strict=True):
        assert_close(member.state, single)


def assert_close(state: TrainState, single: TrainState, tolerance: float = 2e-4) -> None:
    """Hold epochs, weights and the optimiser's state to those of the single job."""
    for own, other in zip(state.history, single.history, strict=True):
        assert own.learning_rate == other.learning_rate
        for figure in ("train_loss", "validation_loss", "penalty"):
            assert getattr(own, figure) == pytest.approx(getattr(other, figure), rel=tolerance, abs=1e-7)
        assert own.train_accuracy == pytest.approx(other.train_accuracy, abs=0.011)  # one of 100 samples
    saved, expected = state.state_dict(), single.state_dict()
    assert torch.equal(saved["generators"]["sampler"], expected["generators"]["sampler"])
    for group, alone in zip(saved["optimizer"]["param_groups"], expected["optimizer"]["param_groups"], strict=True):
        assert group == alone | {"lr": pytest.approx(alone["lr"])}  # a recording has it in float32
    torch.testing.assert_close(saved["network"], expected["network"], rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(saved["optimizer"]["state"], expected["optimizer"]["state"], rtol=2e-2, atol=1e-3)


def test_stacked_replicas_in_bfloat16_equal_the_single_jobs_within_its_rounding(
    job: MakeJob, fresh: Fresh, splits: list[Splits]
) -> None:
    spec = job(NETWORKS["cnn"], replicas=3, epochs=2, batch_size=24, precision="bfloat16")
    replicas = fresh_replicas(spec, stacked=True)
    assert len(list(replicas.fit(spec.training, splits))) == 2
    for member, single in zip(replicas.members, single_runs(spec, fresh, splits), strict=True):
        for own, alone in zip(member.state.history, single.history, strict=True):
            assert own.train_loss == pytest.approx(alone.train_loss, rel=1e-2)


def test_groups_that_memory_asks_for_change_nothing_but_rounding(
    job: MakeJob, fresh: Fresh, splits: list[Splits]
) -> None:
    spec = job(NETWORKS["cnn"], replicas=3, epochs=EPOCHS, batch_size=24)
    states = [member.state for member in fresh_replicas(spec, stacked=True).members]
    trainers = train_together(states, spec.training, [own.train for own in splits], free_bytes=1)
    runs = [
        fit(state, spec.training, own.train, own.validation, trainer)
        for state, own, trainer in zip(states, splits, trainers, strict=True)
    ]
    assert len(list(zip(*runs, strict=True))) == EPOCHS
    for state, single in zip(states, single_runs(spec, fresh, splits), strict=True):
        assert_close(state, single)


class Rerun(Recorder):
    """Stands in where there is no GPU: what was recorded is run again, with the tensors that it was recorded with."""

    def __init__(self) -> None:
        self.replays = 0

    def warm_up(self, run: Callable[[], Tensor]) -> Tensor:
        return run()

    def record(self, run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        figures = torch.zeros(3, 3)

        def replay() -> None:
            self.replays += 1
            figures.copy_(run())

        return figures, replay


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_a_recorded_step_of_stacked_replicas_is_repeated_with_each_batch(
    job: MakeJob, fresh: Fresh, splits: list[Splits], network: dict[str, Any]
) -> None:
    training = {"optimizer": {"momentum": 0.9}, "schedule": {"name": "cosine"}, "l2_penalty": 1e-3}
    spec = job(network, replicas=3, epochs=EPOCHS, batch_size=24, **training)
    states = [member.state for member in fresh_replicas(spec, stacked=True).members]
    recorder = Rerun()
    group = Group(states, spec.training, [own.train for own in splits], recorder)
    runs = [
        fit(state, spec.training, own.train, own.validation, group.trainer(place))
        for place, (state, own) in enumerate(zip(states, splits, strict=True))
    ]
    assert len(list(zip(*runs, strict=True))) == EPOCHS
    assert recorder.replays == EPOCHS * 4 - 3, "all whole batches but those of the warm-up"
    for state, single in zip(states, single_runs(spec, fresh, splits), strict=True):
        assert_close(state, single)


def test_groups_are_as_few_and_as_even_as_memory_allows() -> None:
    assert group_sizes(8, bytes_each=10, free_bytes=1_000) == [8]
    assert group_sizes(8, bytes_each=10, free_bytes=100) == [4, 4]
    assert group_sizes(8, bytes_each=10, free_bytes=70) == [2, 3, 3]
    assert group_sizes(3, bytes_each=10, free_bytes=0) == [1, 1, 1]


@pytest.mark.parametrize(
    ("network", "training", "words"),
    [
        ({"name": "lenet", "batch_norm": True}, {}, "batch norm"),
        ({"name": "lenet", "dropout": 0.1}, {}, "dropout"),
        ({"name": "lenet"}, {"augmentation": {"horizontal_flip": 0.5}}, "augmentation"),
        ({"name": "lenet"}, {"precision": "float16"}, "float16"),
        ({"name": "lenet"}, {"deterministic": True}, "deterministic"),
        ({"name": "torchvision", "architecture": "convnext_tiny"}, {}, "not every layer"),
    ],
)
def test_what_cannot_be_stacked_is_trained_in_turn_and_says_why(
    job: MakeJob, network: dict[str, Any], training: dict[str, Any], words: str
) -> None:
    spec = job(network, dataset="cifar10", **training)
    with torch.device("meta"):
        built, _ = build_network(spec.network, spec.dataset.input_shape, spec.dataset.outputs, WEIGHTS)
    note = why_in_turn(spec.training, built)
    assert note is not None
    assert note.startswith("Trained in turn: ")
    assert words in note


@pytest.mark.parametrize("stacked", [False, True], ids=["in-turn", "stacked"])
def test_a_replica_whose_loss_is_not_finite_is_named_by_its_seed(
    job: MakeJob, splits: list[Splits], stacked: bool
) -> None:
    spec = job(NETWORKS["mlp"], replicas=3, epochs=2)
    replicas = fresh_replicas(spec, stacked=stacked)
    with torch.no_grad():
        next(replicas.members[1].state.network.parameters()).fill_(math.inf)
    with pytest.raises(NonFiniteLoss, match=r"^Replica with seed 8: The loss became nan in epoch 1, step 1 of 2\.$"):
        list(replicas.fit(spec.training, splits))


@pytest.fixture(params=["digits", "table"])
def dataset(request: pytest.FixtureRequest, digits_cache: Path) -> dict[str, Any]:
    if request.param == "digits":
        return {"name": "digits", "validation": 0.2}
    places = np.random.default_rng(3).normal(size=(200, 2))
    heights = np.tanh(places @ np.array([3.0, -1.0])) * 100 + 500
    (digits_cache / "tables").mkdir(exist_ok=True)
    lines = [f"{east},{north},{height}" for (east, north), height in zip(places, heights, strict=True)]
    (digits_cache / "tables" / "hills.csv").write_text("\n".join(["east,north,height", *lines]))
    return TABLE


def prepared(spec: JobSpec, root: Path, *, limit_bytes: int = 2**30) -> list[Splits]:
    data = datasets.prepare_each(spec.dataset, seeds=spec.training.seeds, root=root)
    return put_splits(data, CPU, memory_format=torch.channels_last, limit_bytes=limit_bytes)


def test_each_replica_has_the_split_of_its_own_seed_and_images_stand_in_memory_once(
    job: MakeJob, dataset: dict[str, Any], digits_cache: Path
) -> None:
    network = {"name": "mlp"}
    together = prepared(job(network, dataset=dataset, replicas=3), digits_cache)
    for seed, own in zip((7, 8, 9), together, strict=True):
        (alone,) = prepared(job(network, dataset=dataset, seed=seed), digits_cache)
        for name in ("train", "validation", "test"):
            everything = slice(None)
            shared, copied = (getattr(each, name).batch(everything) for each in (own, alone))
            assert all(map(torch.equal, shared, copied))
    if dataset["name"] == "digits":
        images = [split.inputs for own in together for split in vars(own).values() if isinstance(split, DeviceSplit)]
        assert len(images) == 9
        assert len({id(each) for each in images}) == 2, "those for training and validation, and those of the test split"
        assert not torch.equal(together[0].train.targets, together[1].train.targets)


@pytest.mark.parametrize("limit_bytes", [2**30, 1], ids=["in-memory", "streamed"])
def test_stacked_replicas_on_splits_of_their_own_equal_the_single_jobs(
    job: MakeJob, fresh: Fresh, dataset: dict[str, Any], digits_cache: Path, limit_bytes: int
) -> None:
    spec = job({"name": "mlp", "hidden": [16]}, dataset=dataset, replicas=3, epochs=2, batch_size=50)
    splits = prepared(spec, digits_cache, limit_bytes=limit_bytes)
    assert isinstance(splits[0].train, DeviceSplit) == (limit_bytes > 1)
    replicas = fresh_replicas(spec, stacked=True)
    assert len(list(replicas.fit(spec.training, splits))) == 2
    for member, single in zip(replicas.members, single_runs(spec, fresh, splits), strict=True):
        for own, alone in zip(member.state.history, single.history, strict=True):
            assert own.train_loss == pytest.approx(alone.train_loss, rel=1e-4)
            assert own.validation_loss == pytest.approx(alone.validation_loss, rel=1e-4)


def test_the_result_is_that_of_the_first_replica_with_the_scores_of_all(
    job: MakeJob, dataset: dict[str, Any], result_of: ResultOf
) -> None:
    def spec(**training: Any) -> JobSpec:
        return job({"name": "mlp", "hidden": [16], "dropout": 0.2}, dataset=dataset, epochs=2, **training)

    together = result_of(spec(replicas=3))
    alone = [result_of(spec(seed=seed)) for seed in (7, 8, 9)]
    report = together.replicas
    assert report is not None
    assert (report.seeds, report.vectorised) == ([7, 8, 9], False)
    assert report.note == "Trained in turn: dropout draws for each replica from the generator of its own seed."
    own, first = (each.model_dump(exclude={"timing", "replicas", "spec"}) for each in (together, alone[0]))
    assert own.pop("curves") | {"seconds": None} == first.pop("curves") | {"seconds": None}
    assert own == first
    assert together.seed == 7
    assert together.spec["training"]["replicas"] == 3
    for split in ("train", "validation", "test"):
        assert getattr(report.loss, split).values == [getattr(result.loss, split) for result in alone]
        if dataset is TABLE:
            for name in ("mse", "mae", "r2"):
                scores = [
                    getattr(getattr(result.regression.original, split), name) for result in alone if result.regression
                ]
                assert getattr(getattr(report, name), split).values == scores
        else:
            scores = [getattr(result.accuracy, split) for result in alone]
            assert getattr(report.accuracy, split).values == scores
    losses = np.array([result.curves.train_loss for result in alone])
    assert report.curves.epoch == [1, 2]
    assert report.curves.train_loss.mean == pytest.approx(losses.mean(axis=0).tolist())
    assert report.curves.train_loss.standard_deviation == pytest.approx(losses.std(axis=0, ddof=1).tolist())
    assert (report.accuracy is None) == (report.curves.train_accuracy is None) == (dataset is TABLE)
    assert all((getattr(report, name) is None) == (dataset is not TABLE) for name in ("mse", "mae", "r2"))


def test_a_job_without_replicas_does_not_mention_them(job: MakeJob, result_of: ResultOf) -> None:
    result = result_of(job({"name": "mlp", "hidden": [8]}, epochs=1))
    assert result.replicas is None
    assert "replicas" not in result.model_dump(mode="json")
    assert '"replicas":' not in combine([EpochMetrics(**EPOCH)]).model_dump_json()


EPOCH: dict[str, Any] = dict.fromkeys(EpochMetrics.model_fields, 1.0) | {"epoch": 1, "replicas": None}


def test_what_one_replica_lacks_has_no_mean() -> None:
    assert figure_of([0.5, None]) is None
    assert score_of([0.5, None, 0.5]) is None


@pytest.mark.parametrize("count", [2, 3, 8, 64])
def test_the_interval_is_that_of_students_t(count: int) -> None:
    values = np.random.default_rng(count).normal(0.8, 0.01, count).tolist()
    score = score_of(values)
    assert score is not None
    spread = np.std(values, ddof=1) / math.sqrt(count)
    low, high = stats.t.interval(0.95, count - 1, loc=np.mean(values), scale=spread)
    assert score.interval_95 == pytest.approx((low, high))
    assert score.values == values


def refusals(spec: Callable[[], JobSpec]) -> Iterator[tuple[str, str]]:
    with pytest.raises(InvalidSpec) as refused:
        spec()
    for error in refused.value.errors:
        yield error.loc, error.message


def test_replicas_and_early_stopping_are_refused_together(job: MakeJob) -> None:
    (refusal,) = refusals(lambda: job({"name": "mlp"}, replicas=2, early_stopping={"patience": 3}))
    assert refusal == (
        "training.replicas",
        "Early stopping would end each replica at another epoch: use one of the two, replicas or it.",
    )
    assert job({"name": "mlp"}, replicas=1, early_stopping={"patience": 3}).training.replicas == 1


def test_the_last_seed_too_is_one_that_torch_tells_from_others(job: MakeJob) -> None:
    assert list(job({"name": "mlp"}, replicas=3, seed=MAX_SEED - 2).training.seeds)[-1] == MAX_SEED
    (refusal,) = refusals(lambda: job({"name": "mlp"}, replicas=3, seed=MAX_SEED - 1))
    assert refusal[0] == "training.seed"
    assert "4,294,967,295" in refusal[1]
