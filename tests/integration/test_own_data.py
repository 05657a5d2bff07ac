"""Jobs on data of one's own, through real processes: a table, a tree of images, a network of torchvision's."""

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

HOUSES: dict[str, Any] = {
    "name": "table",
    "file": "houses.csv",
    "target": "price",
    "features": ["area", {"column": "garden", "kind": "yes_no"}],
    "validation": 0.2,
}
SHAPES: dict[str, Any] = {"name": "images", "folder": "shapes", "classes": ["dark", "light"], "resize": 32}
REGRESSION: dict[str, Any] = {
    "dataset": HOUSES,
    "network": {"name": "mlp", "hidden": [8], "activation": "tanh"},
    "training": {
        "epochs": 30,
        "batch_size": 16,
        "seed": 3,
        "optimizer": {"name": "adam", "learning_rate": 0.02},
        "evaluate_before_training": True,
    },
}


@pytest.fixture(scope="module")
def houses(digits_cache: Path) -> None:
    """Two hundred houses whose price follows from area and garden, but for some noise."""
    noise = random.Random(5)
    lines = ["area,garden,price"]
    for number in range(200):
        area, garden = 40 + number, number % 3 == 0
        lines.append(f"{area},{'yes' if garden else 'no'},{1000 * area + 40_000 * garden + noise.randint(-5000, 5000)}")
    (digits_cache / "tables").mkdir(exist_ok=True)
    (digits_cache / "tables" / "houses.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def shapes(digits_cache: Path) -> None:
    """Dark and light pictures of mixed sizes and colours, in folders per class, without a test split."""
    noise = random.Random(6)
    for label, base in (("dark", 20), ("light", 180)):
        folder = digits_cache / "images" / "shapes" / "train" / label
        folder.mkdir(parents=True)
        for number in range(40):
            color = tuple(base + noise.randint(0, 60) for _ in range(3))
            Image.new("RGB", (20 + number, 30), color).save(folder / f"{number}.png")


def result_of(service: Any, job_id: str) -> dict[str, Any]:
    job = service.wait_for_end(job_id)
    assert job["status"] == "succeeded", (job["message"], service.http.get(f"/jobs/{job_id}/logs").text)
    result: dict[str, Any] = service.http.get(f"/jobs/{job_id}/result").json()
    return result


@pytest.mark.usefixtures("houses")
def test_a_regression_is_judged_by_its_errors_on_both_scales_and_never_by_an_accuracy(service: Any) -> None:
    job_id = service.submit(REGRESSION)
    result = result_of(service, job_id)
    assert result["task"] == "regression"
    for absent in ("accuracy", "confusion_matrix", "classification_report"):
        assert result[absent] is None
    scaled, original = result["regression"]["scaled"], result["regression"]["original"]
    scale = result["dataset"]["scaling"]["price"]["scale"]
    for split in ("train", "validation", "test"):
        assert scaled[split]["mse"] == pytest.approx(result["loss"][split], rel=1e-5)
        assert original[split]["mae"] == pytest.approx(scaled[split]["mae"] * scale, rel=1e-6)
        assert original[split]["r2"] == pytest.approx(scaled[split]["r2"], rel=1e-6)
    assert scaled["test"]["r2"] > 0.9, "area and garden explain the price"
    assert result["dataset"]["splits"]["train"]["samples"] == 128
    assert result["dataset"]["splits"]["test"] == {"samples": 40, "classes": {}}


@pytest.mark.usefixtures("houses")
def test_epoch_0_of_a_regression_is_the_untrained_network_and_never_the_best(service: Any) -> None:
    job_id = service.submit(REGRESSION | {"training": REGRESSION["training"] | {"epochs": 2}})
    result = result_of(service, job_id)
    epochs = service.epochs(job_id)
    assert [epoch["epoch"] for epoch in epochs] == [0, 1, 2]
    assert epochs[0]["learning_rate"] == 0
    assert {epoch["train_accuracy"] for epoch in epochs} == {None}
    assert result["curves"]["epoch"] == [0, 1, 2]
    losses = {epoch["epoch"]: epoch["validation_loss"] for epoch in epochs if epoch["epoch"] > 0}
    job = service.job(job_id)
    assert job["best"]["epoch"] == result["best_epoch"] == min(losses, key=lambda epoch: losses[epoch])
    after = service.http.get(f"/jobs/{job_id}/metrics", params={"after": 0}).json()
    assert [epoch["epoch"] for epoch in after["epochs"]] == [1, 2]


@pytest.mark.usefixtures("houses")
def test_a_table_without_the_column_fails_the_job_with_file_and_column(service: Any) -> None:
    job_id = service.submit(REGRESSION | {"dataset": HOUSES | {"features": ["area", "rooms"]}})
    job = service.wait_for_end(job_id)
    assert (job["status"], job["reason"]) == ("failed", "invalid_data")
    assert "houses.csv" in job["message"]
    assert "rooms" in job["message"]
    assert service.rows("SELECT count(*) AS n FROM epochs WHERE job_id = %s", job_id) == [{"n": 0}]


@pytest.mark.usefixtures("shapes")
def test_images_of_mixed_sizes_train_a_network_with_a_test_split_held_out(service: Any) -> None:
    spec = {"dataset": SHAPES, "network": {"name": "cnn", "channels": [4]}, "training": {"epochs": 8, "seed": 1}}
    job_id = service.submit(spec | {"training": {"epochs": 8, "seed": 1, "optimizer": {"learning_rate": 0.1}}})
    result = result_of(service, job_id)
    assert {name: split["samples"] for name, split in result["dataset"]["splits"].items()} == {
        "train": 58,
        "validation": 6,
        "test": 16,
    }
    assert set(result["dataset"]["scaling"]) == {"red", "green", "blue"}
    assert result["accuracy"]["test"] > 0.9


@pytest.mark.usefixtures("shapes")
def test_a_network_of_torchvision_is_counted_when_the_runner_builds_it(service: Any) -> None:
    network = {"name": "torchvision", "architecture": "squeezenet1_1"}
    spec = {"dataset": SHAPES, "network": network, "training": {"epochs": 1, "seed": 1, "batch_size": 16}}
    validated = service.http.post("/jobs:validate", json=spec).json()
    assert (validated["parameters"], validated["layers"]) == (None, [])
    result = result_of(service, service.submit(spec))
    assert result["parameters"]["total"] == 723_522, "squeezenet1_1 with two classes"
    assert result["macs_per_sample"] > 0


def test_a_training_that_does_not_improve_stops_early_with_its_best_weights(service: Any) -> None:
    stopping = {"metric": "validation_loss", "patience": 3, "min_delta": 0.0}
    optimizer = {"name": "sgd", "learning_rate": 0.5, "momentum": 0.9}
    training = {"epochs": 500, "seed": 4, "optimizer": optimizer, "early_stopping": stopping}
    spec = {"dataset": {"name": "digits"}, "network": {"name": "mlp"}, "training": training}
    job_id = service.submit(spec)
    result = result_of(service, job_id)
    epochs = service.epochs(job_id)
    losses = [epoch["validation_loss"] for epoch in epochs]
    best = losses.index(min(losses)) + 1
    assert len(epochs) == best + 3 < 500
    assert result["early_stopping"] == {
        "metric": "validation_loss",
        "best_epoch": best,
        "best_value": min(losses),
        "stopped": True,
    }
    assert result["weights_epoch"] == best
    assert result["loss"]["validation"] == pytest.approx(min(losses), rel=1e-6)


def test_data_that_change_between_two_attempts_end_the_job_instead_of_being_mixed(
    start_service: Any, digits_cache: Path
) -> None:
    rows = [f"{number},{number % 7}" for number in range(300)]
    table = digits_cache / "tables" / "changing.csv"
    table.parent.mkdir(exist_ok=True)
    table.write_text("x,y\n" + "\n".join(rows))
    dataset = {"name": "table", "file": "changing.csv", "target": "y", "features": ["x"]}
    spec = {"dataset": dataset, "network": {"name": "mlp"}, "training": {"epochs": 100_000, "seed": 1}}
    service = start_service(poll_seconds=0.2)
    job_id = service.submit(spec)
    service.wait_for_epoch(job_id, 5)
    table.write_text("x,y\n" + "\n".join(rows[:150]))
    os.kill(service.runner_pid(), signal.SIGKILL)
    job = service.wait_for_end(job_id)
    assert (job["status"], job["reason"], job["attempt"]) == ("failed", "invalid_data", 2)
    assert "tables/changing.csv has changed since epoch" in job["message"]
    (recorded,) = service.rows("SELECT count(*) AS n, max(attempt) AS last FROM epochs WHERE job_id = %s", job_id)
    assert recorded["n"] >= 5
    assert recorded["last"] == 1, "nothing was trained on the other data"
