"""A job with replicas from its submission to its result, over HTTP, also when its runner is killed."""

import os
import signal
from statistics import fmean, stdev
from typing import Any

import pytest

from models.faults import FaultPoint

EPOCHS = 60
FIGURES = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")


def spec(**training: Any) -> dict[str, Any]:
    optimizer = {"name": "sgd", "learning_rate": 0.01, "momentum": 0.9}
    return {
        "dataset": {"name": "digits"},
        "network": {"name": "mlp", "hidden": [64], "dropout": 0.2},
        "training": {"epochs": EPOCHS, "seed": 11, "optimizer": optimizer} | training,
    }


@pytest.fixture(scope="module")
def finished(service: Any) -> str:
    job_id: str = service.submit(spec(replicas=3))
    assert service.wait_for_end(job_id)["status"] == "succeeded", service.http.get(f"/jobs/{job_id}/logs").text
    return job_id


@pytest.fixture(scope="module")
def singles(service: Any) -> list[str]:
    """The single jobs with the same seeds."""
    jobs = [service.submit(spec(seed=seed)) for seed in (11, 12, 13)]
    assert [service.wait_for_end(job)["status"] for job in jobs] == ["succeeded"] * 3
    return jobs


def test_every_epoch_is_that_of_the_first_replica_and_shows_all(
    service: Any, finished: str, singles: list[str]
) -> None:
    epochs = service.epochs(finished)
    assert [epoch["epoch"] for epoch in epochs] == list(range(1, EPOCHS + 1))
    for epoch, *alone in zip(epochs, *(service.epochs(job) for job in singles), strict=True):
        assert set(epoch) == set(alone[0]) | {"replicas"}
        assert set(epoch["replicas"]) == {*FIGURES, "penalty"}
        for figure in FIGURES:
            values = [single[figure] for single in alone]
            assert epoch[figure] == values[0]
            assert epoch["replicas"][figure] == {
                "mean": pytest.approx(fmean(values)),
                "standard_deviation": pytest.approx(stdev(values)),
                "values": values,
            }


def test_the_result_is_that_of_the_first_replica_and_scores_all(
    service: Any, finished: str, singles: list[str]
) -> None:
    result = service.http.get(f"/jobs/{finished}/result").json()
    alone = [service.http.get(f"/jobs/{job}/result").json() for job in singles]
    assert set(result) == set(alone[0]) | {"replicas"}
    unlike = {"timing", "spec", "curves", "replicas"}
    assert {key: result[key] for key in set(result) - unlike} == {key: alone[0][key] for key in set(result) - unlike}
    replicas = result["replicas"]
    assert (replicas["seeds"], replicas["vectorised"]) == ([11, 12, 13], False)
    assert replicas["note"].startswith("Trained in turn: ")
    for score in ("loss", "accuracy"):
        for split in ("train", "validation", "test"):
            told = replicas[score][split]
            assert told["values"] == [single[score][split] for single in alone]
            low, high = told["interval_95"]
            assert low < told["mean"] < high
    for figure in FIGURES:
        assert result["curves"][figure] == alone[0]["curves"][figure]
        means = [epoch["replicas"][figure]["mean"] for epoch in service.epochs(finished)]
        assert replicas["curves"][figure]["mean"] == means


def test_a_job_with_replicas_whose_runner_is_killed_ends_with_the_same_numbers(start_service: Any) -> None:
    service = start_service(slots=1, fault_points=True)
    undisturbed = service.submit(spec(replicas=3))
    assert service.wait_for_end(undisturbed)["status"] == "succeeded"
    with service.faults.holding(FaultPoint.CHECKPOINT_SAVED, passes=EPOCHS // 3) as reached:
        disturbed = service.submit(spec(replicas=3))
        os.kill(reached(), signal.SIGKILL)
    job = service.wait_for_end(disturbed)
    assert (job["status"], job["attempt"]) == ("succeeded", 2)
    for one, other in zip(service.epochs(undisturbed), service.epochs(disturbed), strict=True):
        assert one | {"seconds": None} == other | {"seconds": None}
    one, other = (service.http.get(f"/jobs/{job}/result").json() for job in (undisturbed, disturbed))
    assert one["replicas"] == other["replicas"]
    assert one["confusion_matrix"] == other["confusion_matrix"]


def test_validating_shows_how_many_replicas_there_are_to_be(service: Any) -> None:
    answer = service.http.post("/jobs:validate", json=spec(replicas=8)).json()
    assert answer["spec"]["training"]["replicas"] == 8
    assert service.http.post("/jobs:validate", json=spec()).json()["spec"]["training"]["replicas"] == 1


@pytest.mark.parametrize(
    ("training", "field"),
    [
        ({"replicas": 0}, "training.replicas"),
        ({"replicas": 65}, "training.replicas"),
        ({"replicas": True}, "training.replicas"),
        ({"replicas": 2.0}, "training.replicas"),
        ({"replicas": 2, "early_stopping": {}}, "training.replicas"),
        ({"replicas": 2, "seed": 2**53 - 1}, "training.seed"),
    ],
)
def test_replicas_that_cannot_be_are_refused_by_name(service: Any, training: dict[str, Any], field: str) -> None:
    answer = service.http.post("/jobs", json=spec(**training))
    assert answer.status_code == 422
    assert field in answer.text
