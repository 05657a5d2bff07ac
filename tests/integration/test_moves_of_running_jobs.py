"""Moves with real workers: what is stopped goes on with the same numbers, and what is begun anew forgets the old."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EPOCHS = 120  # a request is looked for every quarter of a second: the job must not be over by then
SPEC: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "network": {"name": "mlp", "hidden": [64], "dropout": 0.2},
    "training": {"epochs": EPOCHS, "seed": 11, "optimizer": {"name": "sgd", "learning_rate": 0.01, "momentum": 0.9}},
}
FIGURES = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
# An epoch of a second or more, so that there is time between a request and the end of the epoch.
SLOW: dict[str, Any] = {
    "dataset": {"name": "digits", "resize": 32},
    "network": {"name": "cnn", "channels": [32, 32], "kernel_size": 5},
    "training": {"epochs": 3, "batch_size": 512, "seed": 3},
}


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    """One worker with one slot, and a scheduler that lets jobs yield to others at once."""
    quick = {"lease_seconds": 5, "beat_seconds": 0.5, "poll_seconds": 0.5, "sweep_seconds": 0.5}
    return start_service(preemption=True, preemption_wait_seconds=0.5, **quick)


@pytest.fixture(scope="module")
def undisturbed(service: Any) -> dict[str, Any]:
    """The epochs and the result of a job that nobody disturbs."""
    job_id = service.submit(SPEC)
    assert wait_for_end(service, job_id)["status"] == "succeeded"
    return {"epochs": service.epochs(job_id), "result": result_of(service, job_id)}


def wait_for_end(service: Any, job_id: str) -> dict[str, Any]:
    view: dict[str, Any] = service.wait_for_end(job_id, seconds=300)
    return view


def result_of(service: Any, job_id: str) -> dict[str, Any]:
    result: dict[str, Any] = service.http.get(f"/jobs/{job_id}/result").json()
    return result


def require_the_same_numbers(service: Any, job_id: str, undisturbed: dict[str, Any]) -> None:
    assert wait_for_end(service, job_id)["status"] == "succeeded"
    epochs, result = service.epochs(job_id), result_of(service, job_id)
    assert [epoch["epoch"] for epoch in epochs] == list(range(1, EPOCHS + 1))
    for figure in FIGURES:
        assert [epoch[figure] for epoch in epochs] == [epoch[figure] for epoch in undisturbed["epochs"]], figure
    for name in ("loss", "accuracy", "confusion_matrix", "best_epoch", "weights_epoch"):
        assert result[name] == undisturbed["result"][name], name


def act(service: Any, job_id: str, action: str, **body: Any) -> dict[str, Any]:
    answer = service.http.post(f"/jobs/{job_id}/{action}", json=body)
    assert answer.status_code in (201, 202), answer.text
    view: dict[str, Any] = answer.json()
    return view


def half_way(service: Any, spec: dict[str, Any] = SPEC, epoch: int = 10) -> str:
    job_id: str = service.submit(spec)
    service.wait_for_epoch(job_id, epoch)
    return job_id


def outcomes(service: Any, job_id: str) -> list[str | None]:
    rows = service.rows("SELECT outcome FROM attempts WHERE job_id = %s ORDER BY number", job_id)
    return [row["outcome"] for row in rows]


def artifacts(service: Any, job_id: str) -> Path:
    return Path(service.data_dir) / "artifacts" / job_id


def test_a_paused_job_goes_on_with_the_same_numbers(service: Any, undisturbed: dict[str, Any]) -> None:
    job_id = half_way(service)
    assert act(service, job_id, "pause")["status"] == "pausing"
    job = service.wait_for(job_id, lambda job: job["status"] == "paused")
    assert (job["reason"], job["message"]) == ("paused_by_user", "Paused by a user.")
    reached = service.epochs(job_id)[-1]["epoch"]
    assert 10 <= reached < EPOCHS
    other = service.submit(SPEC | {"training": SPEC["training"] | {"epochs": 2}})
    assert wait_for_end(service, other)["status"] == "succeeded", "the slot is free"
    assert service.epochs(job_id)[-1]["epoch"] == reached
    act(service, job_id, "resume")
    require_the_same_numbers(service, job_id, undisturbed)
    assert outcomes(service, job_id) == ["paused", "succeeded"]
    assert service.rows("SELECT retries FROM jobs WHERE id = %s", job_id) == [{"retries": 0}]


def test_a_pause_waits_for_the_end_of_a_long_epoch_and_loses_nothing_of_it(service: Any) -> None:
    job_id = service.submit(SLOW)
    service.wait_for(job_id, lambda job: job["message"] == "Trains on cpu.")
    time.sleep(0.5)
    act(service, job_id, "pause")
    service.wait_for(job_id, lambda job: job["status"] == "paused")
    assert len(service.epochs(job_id)) >= 1
    assert outcomes(service, job_id) == ["paused"]
    act(service, job_id, "cancel")
    assert service.job(job_id)["status"] == "cancelled"


def test_a_cancel_does_not_wait_for_the_pause(service: Any) -> None:
    job_id = service.submit(SLOW)
    service.wait_for(job_id, lambda job: job["message"] == "Trains on cpu.")
    act(service, job_id, "pause")
    assert act(service, job_id, "cancel")["status"] == "cancelling"
    job = wait_for_end(service, job_id)
    assert (job["status"], outcomes(service, job_id)) == ("cancelled", ["cancelled"])


def test_a_pause_that_is_taken_back_is_as_if_it_had_never_been(service: Any, undisturbed: dict[str, Any]) -> None:
    job_id = service.submit(SLOW)
    service.wait_for(job_id, lambda job: job["message"] == "Trains on cpu.")
    act(service, job_id, "pause")
    time.sleep(0.4)  # the runner has heard of it
    if (answer := service.http.post(f"/jobs/{job_id}/resume")).status_code == 202:
        assert answer.json()["status"] in ("running", "queued")
    assert wait_for_end(service, job_id)["status"] == "succeeded"
    assert [epoch["epoch"] for epoch in service.epochs(job_id)] == [1, 2, 3]
    assert service.rows("SELECT retries FROM jobs WHERE id = %s", job_id) == [{"retries": 0}]


@pytest.mark.parametrize(("victim", "reason"), [("runner", "runner_died"), ("worker", "worker_lost")])
def test_what_is_killed_while_it_pauses_ends_paused(service: Any, victim: str, reason: str) -> None:
    job_id = service.submit(SLOW | {"training": SLOW["training"] | {"epochs": 30}})
    service.wait_for_epoch(job_id, 1)
    act(service, job_id, "pause")
    if victim == "runner":
        os.kill(service.runner_pid(), signal.SIGKILL)
    else:
        service.stack.kill_child("worker-1")
    job = service.wait_for(job_id, lambda job: job["status"] == "paused", seconds=30)
    # It may have come to the end of its epoch first.
    assert job["reason"] in ("paused_by_user", reason)
    if victim == "worker":
        service.stack.start_child("worker-1")
    assert service.rows("SELECT retries, lease_expires_at FROM jobs WHERE id = %s", job_id) == [
        {"retries": 0, "lease_expires_at": None}
    ]
    act(service, job_id, "cancel")


def test_a_pause_races_the_end_of_the_job(service: Any) -> None:
    short = SPEC | {"training": SPEC["training"] | {"epochs": 3}}
    for _ in range(6):
        job_id = service.submit(short)
        service.wait_for_epoch(job_id, 2)
        answer = service.http.post(f"/jobs/{job_id}/pause")
        assert answer.status_code in (202, 409), answer.text
        job = service.wait_for(job_id, lambda job: job["status"] in ("paused", "succeeded"))
        if job["status"] == "paused":
            act(service, job_id, "resume")
        assert wait_for_end(service, job_id)["status"] == "succeeded"
        assert [epoch["epoch"] for epoch in service.epochs(job_id)] == [1, 2, 3]
        assert service.rows("SELECT count(*) AS n FROM results WHERE job_id = %s", job_id) == [{"n": 1}]


def test_a_retry_from_the_checkpoint_goes_on_with_the_same_numbers(service: Any, undisturbed: dict[str, Any]) -> None:
    job_id = half_way(service)
    act(service, job_id, "cancel")
    assert wait_for_end(service, job_id)["status"] == "cancelled"
    reached = service.epochs(job_id)[-1]["epoch"]
    act(service, job_id, "retry")
    require_the_same_numbers(service, job_id, undisturbed)
    attempts = service.rows("SELECT DISTINCT attempt FROM epochs WHERE job_id = %s AND epoch < %s", job_id, reached)
    assert attempts == [{"attempt": 1}], "what there was stays"


def test_a_retry_from_the_start_uses_nothing_of_before(service: Any, undisturbed: dict[str, Any]) -> None:
    job_id = half_way(service)
    act(service, job_id, "cancel")
    wait_for_end(service, job_id)
    assert service.http.get(f"/jobs/{job_id}/metrics").json()["terminal"] is True
    act(service, job_id, "retry", **{"from": "start"})
    require_the_same_numbers(service, job_id, undisturbed)
    assert service.rows("SELECT DISTINCT attempt FROM epochs WHERE job_id = %s", job_id) == [{"attempt": 2}]
    (scores,) = service.rows("SELECT last_epoch, best_epoch, revision FROM scores WHERE job_id = %s", job_id)
    assert scores["last_epoch"] == EPOCHS
    assert scores["best_epoch"] == undisturbed["result"]["best_epoch"]
    assert scores["revision"] > EPOCHS
    kept = {path.name for path in artifacts(service, job_id).glob("checkpoint-*")}
    assert all(name.startswith("checkpoint-0002-") for name in kept)


def test_after_a_time_limit_a_retry_has_the_whole_time_again(service: Any) -> None:
    forever = SPEC | {"training": SPEC["training"] | {"epochs": 100_000}, "resources": {"time_limit_seconds": 4}}
    job_id = service.submit(forever)
    assert wait_for_end(service, job_id)["reason"] == "time_limit"
    before = len(service.epochs(job_id))
    act(service, job_id, "retry")
    assert wait_for_end(service, job_id)["reason"] == "time_limit"
    assert len(service.epochs(job_id)) > before
    assert outcomes(service, job_id) == ["time_limit", "time_limit"]


def test_the_checkpoint_of_the_best_epoch_is_kept(service: Any, undisturbed: dict[str, Any]) -> None:
    job_id = service.submit(SPEC)
    wait_for_end(service, job_id)
    (best,) = service.rows(
        "SELECT checkpoint FROM epochs JOIN scores USING (job_id) WHERE job_id = %s AND epoch = best_epoch", job_id
    )
    kept = {path.name for path in artifacts(service, job_id).iterdir()}
    assert kept == {best["checkpoint"], f"checkpoint-0001-{EPOCHS - 1:06d}.pt", f"checkpoint-0001-{EPOCHS:06d}.pt"}


def test_a_warm_start_begins_with_the_weights_and_says_so(service: Any) -> None:
    source = service.submit(SPEC)
    wait_for_end(service, source)
    initial = {"job": source, "which": "best"}
    untrained = {"epochs": 1, "seed": SPEC["training"]["seed"], "evaluate_before_training": True}  # on the same split
    job_id = service.submit(SPEC | {"training": untrained, "initial_checkpoint": initial})
    assert wait_for_end(service, job_id)["status"] == "succeeded"
    best = service.job(source)["best"]
    began = service.epochs(job_id)[0]
    assert (began["epoch"], began["validation_loss"]) == (0, best["validation_loss"]), "the weights are the best ones"
    told = result_of(service, job_id)["initial_checkpoint"]
    assert (told["job"], told["which"], told["epoch"]) == (source, "best", best["epoch"])
    (row,) = service.rows(
        "SELECT checkpoint_sha256 FROM epochs WHERE job_id = %s AND epoch = %s", source, best["epoch"]
    )
    assert told["sha256"] == row["checkpoint_sha256"]
    assert (artifacts(service, job_id) / "initial.pt").exists()
    assert "initial_checkpoint" not in result_of(service, source)
    cold = SPEC | {"training": untrained}
    other = service.submit(cold)
    wait_for_end(service, other)
    assert service.epochs(other)[0]["validation_loss"] != began["validation_loss"]


def replace_by_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("no folder any more")


def unlink_all(folder: Path) -> None:
    for path in folder.glob("checkpoint-*"):
        path.unlink()


def damage_all(folder: Path) -> None:
    for path in folder.glob("checkpoint-*"):
        path.write_bytes(b"something else")


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (unlink_all, "is not on disk any more"),
        (damage_all, "checksum"),
        (replace_by_file, "could not be taken over: Not a directory"),
    ],
)
def test_a_checkpoint_that_cannot_be_had_fails_the_job_with_a_sentence(
    service: Any, harm: Callable[[Path], None], sentence: str
) -> None:
    source = service.submit(SPEC | {"training": SPEC["training"] | {"epochs": 2}})
    wait_for_end(service, source)
    harm(artifacts(service, source))
    job_id = service.submit(SPEC | {"initial_checkpoint": {"job": source, "which": "last"}})
    job = wait_for_end(service, job_id)
    assert (job["status"], job["reason"]) == ("failed", "initial_checkpoint_lost")
    assert sentence in job["message"]
    (attempt,) = service.rows("SELECT outcome, ended_at FROM attempts WHERE job_id = %s", job_id)
    assert attempt["outcome"] == "initial_checkpoint_lost"
    assert attempt["ended_at"] is not None


def test_another_network_is_refused_by_its_first_layer_that_differs(service: Any) -> None:
    source = service.submit(SPEC | {"training": SPEC["training"] | {"epochs": 1}})
    answer = service.http.post("/jobs", json=SPEC | {"initial_checkpoint": {"job": source}})
    wait_for_end(service, source)
    if answer.status_code == 422:
        assert answer.json()["errors"][0]["loc"] == "initial_checkpoint.job", "it had none yet"
    wider = SPEC | {"network": {"name": "mlp", "hidden": [65], "dropout": 0.2}}
    answer = service.http.post("/jobs", json=wider | {"initial_checkpoint": {"job": source}})
    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, "initial_checkpoint.job")
    assert "its layer 1 (linear) differs in out_features" in answer.json()["detail"]


def test_a_job_starts_from_one_that_it_waits_for(service: Any) -> None:
    source = service.submit(SPEC)
    both = {"depends_on": [source], "initial_checkpoint": {"job": source, "which": "last"}}
    job_id = service.submit(SPEC | both | {"training": SPEC["training"] | {"epochs": 1}})
    assert service.job(job_id)["message"] == f"Waits for job {source}."
    assert wait_for_end(service, job_id)["status"] == "succeeded"
    assert result_of(service, job_id)["initial_checkpoint"]["epoch"] == EPOCHS
    moves = {move["to_status"]: move["at"] for move in service.job(source)["transitions"]}
    assert service.job(job_id)["started_at"] >= moves["succeeded"]


def test_a_job_yields_to_one_of_higher_priority_and_ends_with_the_same_numbers(service: Any) -> None:
    long = SPEC | {"training": SPEC["training"] | {"epochs": 300}}
    reference = service.submit(long)
    assert wait_for_end(service, reference)["status"] == "succeeded"
    job_id = half_way(service, long)
    urgent = service.submit(SPEC | {"priority": 50, "training": SPEC["training"] | {"epochs": 2}})
    assert wait_for_end(service, urgent)["status"] == "succeeded"
    assert service.job(job_id)["status"] in ("queued", "running"), "it has made room"
    assert wait_for_end(service, job_id)["status"] == "succeeded"
    for figure in FIGURES:
        assert [epoch[figure] for epoch in service.epochs(job_id)] == [
            epoch[figure] for epoch in service.epochs(reference)
        ], figure
    assert result_of(service, job_id)["loss"] == result_of(service, reference)["loss"]
    assert "preempted" in [move["reason"] for move in service.job(job_id)["transitions"]]
    assert outcomes(service, job_id) == ["preempted", "succeeded"]
    (row,) = service.rows("SELECT retries, yields_to FROM jobs WHERE id = %s", job_id)
    assert row == {"retries": 0, "yields_to": None}


def test_nobody_yields_to_an_equal(service: Any, undisturbed: dict[str, Any]) -> None:
    job_id = half_way(service)
    equal = service.submit(SPEC | {"training": SPEC["training"] | {"epochs": 1}})
    require_the_same_numbers(service, job_id, undisturbed)
    assert wait_for_end(service, equal)["status"] == "succeeded"
    assert outcomes(service, job_id) == ["succeeded"]
