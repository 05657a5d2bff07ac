"""Where specs differ, which jobs are a group, and which epochs stand for a long training."""

from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.comparisons.curves import shown_epochs
from api.comparisons.groups import groups_of
from api.comparisons.rows import Row
from api.comparisons.specs import but_for_the_seed, spec_differences
from models.spec import JobSpec


def spec(**changes: Any) -> dict[str, Any]:
    """A resolved spec of a small network on the digits."""
    training = {"seed": 1} | changes.pop("training", {})
    sent = {"dataset": {"name": "digits"}, "network": {"name": "mlp"}, "training": training} | changes
    return JobSpec.model_validate(sent).resolved().as_json()


def test_only_what_differs_is_told_by_its_path() -> None:
    sgd = spec(training={"optimizer": {"learning_rate": 0.1}})
    adam = spec(training={"optimizer": {"name": "adam", "learning_rate": 0.1}, "epochs": 5})
    found = dict(spec_differences([sgd, adam, sgd]))
    assert found["training.epochs"] == {0: sgd["training"]["epochs"], 1: 5, 2: sgd["training"]["epochs"]}
    assert found["training.optimizer.name"] == {0: "sgd", 1: "adam", 2: "sgd"}
    assert found["training.optimizer.momentum"] == {0: 0.0, 2: 0.0}, "adam has no momentum"
    assert found["training.optimizer.beta1"] == {1: 0.9}
    assert "training.optimizer.learning_rate" not in found


def test_name_tags_and_seed_are_no_differences() -> None:
    other = spec(name="second", tags=["hw4"], training={"seed": 2})
    assert spec_differences([spec(), other]) == []
    assert but_for_the_seed(spec()) == but_for_the_seed(other)
    assert but_for_the_seed(spec()) != but_for_the_seed(spec(training={"batch_size": 7}))


def test_lists_of_objects_are_compared_by_place_and_plain_lists_as_wholes() -> None:
    one = {"layers": [{"kind": "linear", "out": 3}, {"kind": "relu"}], "hidden": [1, 2], "schedule": None}
    two = {"layers": [{"kind": "linear", "out": 4}], "hidden": [1, 3], "schedule": {"name": "step"}}
    assert spec_differences([one, two]) == [
        ("layers.0.out", {0: 3, 1: 4}),
        ("layers.1", {0: {"kind": "relu"}}),
        ("hidden", {0: [1, 2], 1: [1, 3]}),
        ("schedule", {0: None, 1: {"name": "step"}}),
    ]


def test_true_is_not_one() -> None:
    assert spec_differences([{"a": True}, {"a": 1}]) == [("a", {0: True, 1: 1})]


def row(number: int, job_spec: dict[str, Any], accuracy: float | None) -> Row:
    splits = {"train": accuracy, "validation": None, "test": accuracy}
    essentials = {"loss": splits, "accuracy": splits, "regression": None}
    return Row(
        id=UUID(int=number),
        name=None,
        status="queued" if accuracy is None else "succeeded",
        user="ann",
        spec=job_spec,
        essentials=None if accuracy is None else essentials,
        last_epoch=None,
        best_epoch=None,
        tested=None,
    )


def test_jobs_that_differ_in_the_seed_alone_are_a_group() -> None:
    rows = [row(seed, spec(training={"seed": seed}), 0.8 + seed / 100) for seed in (1, 2, 3)]
    rows.append(row(9, spec(training={"seed": 9, "batch_size": 7}), 0.1))
    (group,) = groups_of(rows)
    assert (group.over, group.n, group.seeds, [int(job) for job in group.jobs]) == ("jobs", 3, [1, 2, 3], [1, 2, 3])
    assert group.accuracy is not None
    assert group.accuracy.validation is None
    test = group.accuracy.test
    assert test is not None
    assert test.values == pytest.approx([0.81, 0.82, 0.83])
    assert (test.mean, test.standard_deviation) == pytest.approx((0.82, 0.01))
    # t of 2 degrees of freedom is 4.3027 (any table of Student's distribution)
    assert test.interval_95 == pytest.approx((0.82 - 4.3027 * 0.01 / 3**0.5, 0.82 + 4.3027 * 0.01 / 3**0.5), rel=1e-5)
    assert (group.mse, group.note) == (None, None)


def test_a_seed_that_ran_twice_counts_once_and_jobs_without_a_result_not_at_all() -> None:
    twice = [row(1, spec(), 0.5), row(2, spec(name="again"), 0.5)]
    (group,) = groups_of([*twice, row(3, spec(training={"seed": 3}), None)])
    assert (group.n, group.seeds, len(group.jobs)) == (1, [1], 3)
    assert group.accuracy is None
    assert group.note == "Fewer than two different seeds have a result."


def test_a_regression_is_grouped_by_its_errors_on_the_targets_own_scale() -> None:
    def result(mse: float) -> dict[str, Any]:
        scores = {"mse": mse, "mae": mse, "r2": None}
        splits = {"train": scores, "validation": None, "test": scores}
        return {"loss": dict.fromkeys(("train", "validation", "test"), 1.0), "regression": {"original": splits}}

    rows = [row(seed, spec(training={"seed": seed}), 0.0) for seed in (1, 2)]
    for each, mse in zip(rows, (4.0, 6.0), strict=True):
        assert each.essentials is not None
        each.essentials.update(result(mse))
    (group,) = groups_of(rows)
    assert group.accuracy is None
    assert group.mse is not None
    assert group.mse.test is not None
    assert group.mse.test.mean == 5.0
    assert group.mse.validation is None
    assert group.r2 is not None
    assert group.r2.test is None


def test_the_replicas_of_a_job_are_a_group_of_their_own() -> None:
    score = {"mean": 0.5, "standard_deviation": 0.1, "values": [0.4, 0.6], "interval_95": [0.1, 0.9]}
    splits = {"train": score, "validation": None, "test": score}
    replicated = row(1, spec(training={"replicas": 2}), 0.4)
    assert replicated.essentials is not None
    figures = {"loss": splits, "accuracy": splits, "mse": None, "mae": None, "r2": None}
    replicated.essentials["replicas"] = {"seeds": [1, 2], **figures}
    waiting = row(2, spec(training={"replicas": 2, "seed": 5}), None)
    first, second = groups_of([replicated, waiting])
    assert (first.over, first.n, first.seeds, [int(job) for job in first.jobs]) == ("replicas", 2, [1, 2], [1])
    assert first.accuracy is not None
    assert first.accuracy.test is not None
    assert first.accuracy.test.interval_95 == (0.1, 0.9)
    assert (second.n, second.accuracy) == (0, None)
    assert second.note is not None


def test_short_trainings_are_shown_whole() -> None:
    assert shown_epochs({4, 3}, {4, 2}, 5) == [0, 1, 2, 3, 4]
    assert shown_epochs({0}, set(), 2) == [0]


@pytest.mark.parametrize("max_points", [2, 3, 10, 500, 1_000])
def test_long_trainings_are_shown_at_evenly_spaced_epochs_and_those_to_keep(max_points: int) -> None:
    kept = {100_000, 777, 31_415}
    epochs = shown_epochs({100_000}, kept, max_points)
    assert epochs == sorted(set(epochs))
    assert len(epochs) <= max_points
    assert (epochs[0], epochs[-1]) == (0, 100_000)
    assert kept <= set(epochs) or max_points < 6
    gaps = [later - earlier for earlier, later in pairwise(epochs)]
    assert max(gaps) <= 100_000 / max(1, max_points - 1 - len(kept)) + 1


def test_a_short_training_beside_a_long_one_is_shown_whole() -> None:
    epochs = shown_epochs({6, 100_000}, {6, 4, 100_000}, 500)
    assert set(range(7)) <= set(epochs)
    assert 400 < len(epochs) <= 500
    assert max(later - earlier for earlier, later in pairwise(epochs)) < 300


def test_each_length_has_its_own_evenly_spaced_epochs() -> None:
    epochs = shown_epochs({1_000, 100_000}, set(), 102)
    assert {round(place * 1_000 / 24) for place in range(25)} <= set(epochs)
    assert epochs[-1] == 100_000


LASTS = st.sets(st.integers(0, 100_000), min_size=1, max_size=50)


@given(lasts=LASTS, best=st.floats(0, 1), max_points=st.integers(2, 1_000))
def test_no_more_epochs_are_shown_than_asked_for(lasts: set[int], best: float, max_points: int) -> None:
    kept = lasts | {int(best * last) for last in lasts}
    epochs = shown_epochs(lasts, kept, max_points)
    assert epochs == sorted(set(epochs))
    assert len(epochs) <= max_points
    assert (epochs[0], epochs[-1]) == (0, max(lasts)), "the ends of the longest"
    assert kept <= set(epochs) or 2 * len(kept) > max_points - 2
