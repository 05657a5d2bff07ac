"""The other ways in which a job ends: cancelled, out of time, or failed with a reason that helps."""

import time
from datetime import datetime
from typing import Any

from harness.jobs import DIGITS_MLP

LONG = DIGITS_MLP | {"training": {"epochs": 100_000, "seed": 1}}


def cancelling_seconds(job: dict[str, Any]) -> float:
    """Return the time from the request to its end, by the service's clock."""
    moments = {move["to_status"]: datetime.fromisoformat(move["at"]) for move in job["transitions"]}
    return (moments["cancelled"] - moments["cancelling"]).total_seconds()


def test_the_result_of_an_unfinished_job_is_refused(service: Any) -> None:
    job_id = service.submit(LONG)
    answer = service.http.get(f"/jobs/{job_id}/result")
    assert (answer.status_code, answer.json()["code"]) == (409, "job_not_finished")
    service.http.post(f"/jobs/{job_id}/cancel")
    service.wait_for_end(job_id)
    answer = service.http.get(f"/jobs/{job_id}/result")
    assert (answer.status_code, answer.json()["code"]) == (409, "no_result")


def test_a_queued_job_is_cancelled_at_once(service: Any) -> None:
    job_id = service.submit(DIGITS_MLP | {"resources": {"device": "cuda"}})
    answer = service.http.post(f"/jobs/{job_id}/cancel")
    assert (answer.status_code, answer.json()["status"], answer.json()["reason"]) == (
        202,
        "cancelled",
        "cancelled_by_user",
    )
    again = service.http.post(f"/jobs/{job_id}/cancel")
    assert (again.status_code, again.json()) == (202, answer.json()), "a second cancel changes nothing"
    assert service.rows("SELECT count(*) AS n FROM attempts WHERE job_id = %s", job_id) == [{"n": 0}]


def test_a_running_job_is_cancelled_within_two_seconds_and_keeps_its_epochs(service: Any) -> None:
    job_id = service.submit(LONG)
    service.wait_for_epoch(job_id, 3)
    assert service.http.post(f"/jobs/{job_id}/cancel").json()["status"] == "cancelling"
    job = service.wait_for_end(job_id)
    assert cancelling_seconds(job) < 2
    assert (job["status"], job["reason"]) == ("cancelled", "cancelled_by_user")
    epochs = [epoch["epoch"] for epoch in service.epochs(job_id)]
    assert epochs == list(range(1, len(epochs) + 1))
    assert len(epochs) >= 3
    (attempt,) = service.rows("SELECT outcome, ended_at FROM attempts WHERE job_id = %s", job_id)
    assert attempt["outcome"] == "cancelled"
    assert attempt["ended_at"] is not None


def test_a_long_epoch_does_not_delay_a_cancel(service: Any) -> None:
    slow = {
        "dataset": {"name": "digits", "resize": 64},
        "network": {"name": "cnn", "channels": [256, 256], "kernel_size": 7},
        "training": {"epochs": 5, "batch_size": 64},
    }
    job_id = service.submit(slow)
    service.wait_for(job_id, lambda job: job["message"] == "Trains on cpu.")
    service.http.post(f"/jobs/{job_id}/cancel")
    job = service.wait_for_end(job_id)
    assert job["status"] == "cancelled"
    assert cancelling_seconds(job) < 2
    assert service.epochs(job_id) == []


def test_a_job_beyond_its_time_limit_fails_and_says_so(service: Any) -> None:
    job_id = service.submit(LONG | {"resources": {"time_limit_seconds": 2}})
    job = service.wait_for_end(job_id)
    assert (job["status"], job["reason"]) == ("failed", "time_limit")
    assert "2 seconds" in job["message"]
    assert service.epochs(job_id)


def test_a_loss_that_is_not_finite_fails_the_job_and_names_the_step(service: Any) -> None:
    training = {"l2_penalty": 1000.0, "optimizer": {"name": "sgd", "learning_rate": 1000.0}}
    job_id = service.submit(DIGITS_MLP | {"training": training})
    job = service.wait_for_end(job_id)
    assert (job["status"], job["reason"]) == ("failed", "non_finite_loss")
    assert "step" in job["message"]


def test_batch_norm_over_a_batch_of_one_value_is_explained(service: Any) -> None:
    layers: list[dict[str, Any]] = [
        {"kind": "conv2d", "out_channels": 4, "kernel_size": 8},
        {"kind": "batch_norm2d"},
        {"kind": "flatten"},
        {"kind": "linear", "out_features": 10},
    ]
    dataset = {"name": "digits", "validation": 0}  # 1,437 training samples: 4 batches of 359, and one sample more
    training = {"batch_size": 359}
    job_id = service.submit(
        {"dataset": dataset, "network": {"name": "sequential", "layers": layers}, "training": training}
    )
    job = service.wait_for_end(job_id)
    assert (job["status"], job["reason"]) == ("failed", "batch_of_one")
    assert "layer 1" in job["message"]


def test_missing_data_fail_the_job_with_a_sentence_that_names_the_place(start_service: Any) -> None:
    offline = start_service(download_datasets="false")
    job_id = offline.submit({"dataset": {"name": "fashion_mnist"}, "network": {"name": "mlp"}})
    job = offline.wait_for_end(job_id)
    assert (job["status"], job["reason"]) == ("failed", "invalid_data")
    assert "fashion_mnist" in job["message"]
    assert offline.rows("SELECT count(*) AS n FROM results") == [{"n": 0}]


def test_a_lease_is_renewed_for_as_long_as_the_job_takes(start_service: Any) -> None:
    hurried = start_service(lease_seconds=2, beat_seconds=0.25)
    job_id = hurried.submit(LONG)
    hurried.wait_for_epoch(job_id, 1)
    time.sleep(5)
    job = hurried.job(job_id)
    assert (job["status"], job["attempt"]) == ("running", 1)
    hurried.http.post(f"/jobs/{job_id}/cancel")


def test_a_validation_split_too_small_to_hold_a_sample_is_refused(service: Any) -> None:
    answer = service.http.post("/jobs", json=DIGITS_MLP | {"dataset": {"name": "digits", "validation": 0.0001}})
    assert [error["loc"] for error in answer.json()["errors"]] == ["dataset.validation"]


def test_memory_that_does_not_suffice_is_said_to_be_the_reason(service: Any) -> None:
    layers: list[dict[str, Any]] = [
        {"kind": "conv2d", "out_channels": 65_536, "kernel_size": 1},
        {"kind": "global_avg_pool2d"},
        {"kind": "flatten"},
        {"kind": "linear", "out_features": 10},
    ]
    dataset = {"name": "digits", "resize": 32}
    network = {"name": "sequential", "layers": layers}
    job_id = service.submit({"dataset": dataset, "network": network, "training": {"batch_size": 1_437}})
    job = service.wait_for_end(job_id)
    assert (job["status"], job["reason"]) == ("failed", "out_of_memory")
