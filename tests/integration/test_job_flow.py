"""A job from its submission to its result, over HTTP, through real processes."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from harness.jobs import DIGITS_MLP

LENET = {
    "name": "lenet on digits",
    "dataset": {"name": "digits", "resize": 32},
    "network": {"name": "lenet"},
    "training": {"epochs": 4, "seed": 7, "optimizer": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9}},
    "tags": ["hw4"],
}
UNKNOWN = "01a1fc05-96f8-74b8-9c20-173cf1283400"
LONG = DIGITS_MLP | {"training": {"epochs": 100_000, "seed": 1}}


@pytest.fixture(scope="module")
def finished(service: Any) -> str:
    job_id: str = service.submit(LENET)
    assert service.wait_for_end(job_id)["status"] == "succeeded", service.http.get(f"/jobs/{job_id}/logs").text
    return job_id


@pytest.fixture(scope="module")
def result(service: Any, finished: str) -> dict[str, Any]:
    answer: dict[str, Any] = service.http.get(f"/jobs/{finished}/result").json()
    return answer


def test_a_submitted_job_is_answered_with_its_location_and_every_default(service: Any) -> None:
    answer = service.http.post("/jobs", json=DIGITS_MLP)
    job = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert job["status"] == "queued"
    assert job["spec"]["training"]["optimizer"] == {
        "name": "sgd",
        "learning_rate": 0.01,
        "momentum": 0.0,
        "nesterov": False,
        "weight_decay": 0.0,
    }
    assert isinstance(job["spec"]["training"]["seed"], int)
    assert service.wait_for_end(job["id"])["status"] == "succeeded"


def test_a_job_walks_from_queued_over_running_to_succeeded_with_times_in_order(service: Any, finished: str) -> None:
    job = service.job(finished)
    assert [move["to_status"] for move in job["transitions"]] == ["queued", "running", "succeeded"]
    times = [move["at"] for move in job["transitions"]]
    assert times == sorted(times)
    assert job["progress"] == {"epoch": 4, "epochs": 4}
    assert job["last"]["epoch"] == 4
    assert job["best"]["validation_accuracy"] == max(e["validation_accuracy"] for e in service.epochs(finished))


def test_every_epoch_is_served_once_with_exactly_the_agreed_fields(service: Any, finished: str) -> None:
    answer = service.http.get(f"/jobs/{finished}/metrics").json()
    assert answer["terminal"] is True
    assert answer["next"] == 4
    assert [epoch["epoch"] for epoch in answer["epochs"]] == [1, 2, 3, 4]
    assert set(answer["epochs"][0]) == {
        "epoch",
        "train_loss",
        "train_accuracy",
        "validation_loss",
        "validation_accuracy",
        "learning_rate",
        "seconds",
    }


def test_metrics_after_an_epoch_hold_only_later_ones(service: Any, finished: str) -> None:
    answer = service.http.get(f"/jobs/{finished}/metrics", params={"after": 3}).json()
    assert [epoch["epoch"] for epoch in answer["epochs"]] == [4]
    assert service.http.get(f"/jobs/{finished}/metrics", params={"after": 4}).json()["next"] == 4


def test_unchanged_metrics_are_answered_with_304(service: Any, finished: str) -> None:
    path = f"/jobs/{finished}/metrics"
    tag = service.http.get(path).headers["etag"]
    assert tag.startswith('"')
    unchanged = service.http.get(path, headers={"If-None-Match": f'"other", {tag}'})
    assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", tag)
    assert service.http.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    assert service.http.get(path, headers=[("If-None-Match", '"other"'), ("If-None-Match", tag)]).status_code == 304


def test_a_waiting_reader_is_answered_when_an_epoch_is_recorded(service: Any) -> None:
    job_id = service.submit(LENET)
    seen: list[int] = []
    after, terminal = 0, False
    started = time.monotonic()
    requests = 0
    while not terminal:
        answer = service.http.get(f"/jobs/{job_id}/metrics", params={"after": after, "wait": 30}).json()
        seen += [epoch["epoch"] for epoch in answer["epochs"]]
        after, terminal = answer["next"], answer["terminal"]
        requests += 1
        assert time.monotonic() - started < 60
    assert seen == [1, 2, 3, 4]
    assert requests < 20, "the answer is held until there is news"


def test_a_reader_that_waits_in_vain_is_answered_when_its_time_is_up(service: Any) -> None:
    job_id = service.submit(LONG)
    try:
        service.wait_for_epoch(job_id, 1)
        started = time.monotonic()
        answer = service.http.get(f"/jobs/{job_id}/metrics", params={"after": 90_000, "wait": 1}).json()
        assert 0.9 < time.monotonic() - started < 10
        assert answer["epochs"] == []
        assert answer["next"] == 90_000
    finally:
        service.http.post(f"/jobs/{job_id}/cancel")
        service.wait_for_end(job_id)


def test_more_readers_can_wait_than_there_are_database_connections(service: Any) -> None:
    job_id = service.submit(DIGITS_MLP | {"resources": {"device": "cuda"}})  # waits for a GPU that no test machine has
    with ThreadPoolExecutor(40) as pool:
        waiting = [pool.submit(service.http.get, f"/jobs/{job_id}/metrics", params={"wait": 3}) for _ in range(40)]
        time.sleep(0.5)
        assert service.http.get("/readyz").status_code == 200
        assert {future.result().status_code for future in waiting} == {200}
    service.http.post(f"/jobs/{job_id}/cancel")


def test_no_reader_misses_the_news_that_comes_while_it_reads(service: Any) -> None:
    waits_for_gpu = DIGITS_MLP | {"resources": {"device": "cuda"}}
    with ThreadPoolExecutor(1) as pool:
        for milliseconds in range(40):
            job_id = service.submit(waits_for_gpu)
            reader = pool.submit(service.http.get, f"/jobs/{job_id}/metrics", params={"wait": 20})
            time.sleep(milliseconds % 8 / 1_000)
            service.http.post(f"/jobs/{job_id}/cancel")
            assert reader.result().json()["status"] == "cancelled"
            assert reader.result().elapsed.total_seconds() < 10


def test_many_readers_of_one_job_leave_connections_for_everybody_else(service: Any) -> None:
    job_id = service.submit(DIGITS_MLP | {"training": {"epochs": 60}})

    def follow() -> set[int]:
        statuses, after, terminal = set(), 0, False
        while not terminal:
            answer = service.http.get(f"/jobs/{job_id}/metrics", params={"after": after, "wait": 30})
            statuses.add(answer.status_code)
            after, terminal = answer.json()["next"], answer.json()["terminal"]
        return statuses

    with ThreadPoolExecutor(60) as pool:
        readers = [pool.submit(follow) for _ in range(60)]
        assert service.http.get("/readyz").status_code == 200
        assert set().union(*(reader.result() for reader in readers)) == {200}


def test_a_commit_that_fails_is_not_answered_with_success(service: Any) -> None:
    service.rows(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$;"
        "CREATE CONSTRAINT TRIGGER refusing AFTER INSERT ON jobs DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW WHEN (NEW.name = 'refuse me') EXECUTE FUNCTION refuse();"
    )
    answer = service.http.post("/jobs", json=DIGITS_MLP | {"name": "refuse me"})
    assert answer.status_code >= 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert service.rows("SELECT count(*) AS n FROM jobs WHERE name = 'refuse me'") == [{"n": 0}]


def test_the_result_holds_what_a_report_needs(result: dict[str, Any]) -> None:
    assert list(result) == [
        "task",
        "timing",
        "loss",
        "accuracy",
        "regression",
        "penalty",
        "best_epoch",
        "worst_epoch",
        "weights_epoch",
        "early_stopping",
        "curves",
        "parameters",
        "macs_per_sample",
        "flops_per_sample",
        "confusion_matrix",
        "classification_report",
        "environment",
        "dataset",
        "seed",
        "spec",
        "diagnosis",
    ]
    assert result["parameters"]["total"] == 61_706
    assert result["flops_per_sample"] == 2 * result["macs_per_sample"] == 2 * 416_520
    assert result["seed"] == 7
    assert result["spec"]["tags"] == ["hw4"]
    assert result["environment"]["device"] == "cpu"
    assert result["accuracy"]["test"] > 0.5, "it has learnt to tell digits apart"


def test_the_figures_of_a_result_agree_with_each_other(service: Any, finished: str, result: dict[str, Any]) -> None:
    matrix, report = result["confusion_matrix"], result["classification_report"]
    assert [sum(row) for row in matrix] == [entry["support"] for entry in report["classes"]]
    assert sum(map(sum, matrix)) == result["dataset"]["splits"]["test"]["samples"] == 360
    assert report["accuracy"] == result["accuracy"]["test"] == sum(matrix[i][i] for i in range(10)) / 360
    splits = result["dataset"]["splits"]
    assert splits["train"]["samples"] + splits["validation"]["samples"] == 1_437
    assert result["curves"]["train_loss"] == [epoch["train_loss"] for epoch in service.epochs(finished)]
    accuracies = result["curves"]["validation_accuracy"]
    assert result["best_epoch"] == 1 + accuracies.index(max(accuracies))
    assert result["worst_epoch"] == 1 + accuracies.index(min(accuracies))
    assert result["accuracy"]["validation"] == accuracies[-1], "the last epoch's weights are the final ones"


def test_the_times_of_a_result_add_up(result: dict[str, Any]) -> None:
    timing = result["timing"]
    parts = ("queued_seconds", "setup_seconds", "training_seconds", "evaluation_seconds")
    assert all(timing[part] > 0 for part in parts)
    assert sum(timing[part] for part in parts) <= timing["total_seconds"]
    assert timing["training_seconds"] == pytest.approx(sum(result["curves"]["seconds"]))
    assert sum(timing["startup"].values()) == pytest.approx(timing["setup_seconds"])
    assert all(timing["startup"][f"{phase}_seconds"] > 0 for phase in ("process", "import", "data", "network"))
    assert timing["startup"]["import_seconds"] < timing["setup_seconds"] / 2, "torch was there already"
    assert timing["epoch_seconds"]["min"] <= timing["epoch_seconds"]["median"] <= timing["epoch_seconds"]["max"]
    for latency in timing["latency"].values():
        assert 0 < latency["median_seconds_per_sample"] <= latency["p95_seconds_per_sample"]


def test_the_same_spec_and_seed_give_the_same_numbers(service: Any, result: dict[str, Any]) -> None:
    again = service.submit(LENET)
    service.wait_for_end(again)
    repeated = service.http.get(f"/jobs/{again}/result").json()
    for figure in ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy"):
        assert repeated["curves"][figure] == result["curves"][figure]
    assert repeated["confusion_matrix"] == result["confusion_matrix"]


def test_validating_on_the_test_split_is_said_aloud(service: Any) -> None:
    job_id = service.submit(DIGITS_MLP | {"dataset": {"name": "digits", "validation": "test"}})
    service.wait_for_end(job_id)
    result = service.http.get(f"/jobs/{job_id}/result").json()
    assert ("validated_on_test", "warning") in [(entry["code"], entry["level"]) for entry in result["diagnosis"]]
    assert result["dataset"]["splits"]["train"]["samples"] == 1_437
    assert result["accuracy"]["validation"] == result["accuracy"]["test"]


def test_a_layer_list_of_ones_own_trains_as_it_was_given(service: Any) -> None:
    layers: list[dict[str, Any]] = [
        {"kind": "conv2d", "out_channels": 4, "kernel_size": 3, "padding": 1},
        {"kind": "batch_norm2d"},
        {"kind": "tanh"},
        {"kind": "avg_pool2d"},
        {"kind": "dropout2d", "probability": 0.1},
        {"kind": "flatten"},
        {"kind": "linear", "out_features": 10},
    ]
    job_id = service.submit({"dataset": {"name": "digits"}, "network": {"name": "sequential", "layers": layers}})
    assert service.wait_for_end(job_id)["status"] == "succeeded"
    result = service.http.get(f"/jobs/{job_id}/result").json()
    assert [layer["kind"] for layer in result["parameters"]["layers"]] == [layer["kind"] for layer in layers]
    assert result["parameters"]["total"] == 4 * 9 + 4 + 2 * 4 + 4 * 4 * 4 * 10 + 10
    assert result["spec"]["network"]["layers"][0]["out_channels"] == 4


def test_cancelling_a_finished_job_leaves_it_as_it_is(service: Any, finished: str) -> None:
    answer = service.http.post(f"/jobs/{finished}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "succeeded")
    assert len(answer.json()["transitions"]) == 3


def test_what_the_runner_prints_is_kept_as_the_log(service: Any, finished: str) -> None:
    answer = service.http.get(f"/jobs/{finished}/logs").json()
    assert answer["job_id"] == finished
    assert all(entry["attempt"] == 1 for entry in answer["entries"])


def test_validating_a_spec_counts_its_network_and_stores_nothing(service: Any) -> None:
    before = service.rows("SELECT count(*) AS n FROM jobs")
    spec = {"dataset": {"name": "cifar10"}, "network": {"name": "lenet"}}
    answer = service.http.post("/jobs:validate", json=spec)
    body = answer.json()
    assert answer.status_code == 200
    assert (body["parameters"], body["macs_per_sample"]) == (62_006, 651_720)
    assert body["layers"][0] == {
        "layer": 0,
        "kind": "conv2d",
        "input_shape": [3, 32, 32],
        "output_shape": [6, 28, 28],
        "parameters": 456,
        "macs": 352_800,
        "applied": 1,
        "layers": [],
    }
    assert body["spec"]["training"]["epochs"] == 10
    assert service.rows("SELECT count(*) AS n FROM jobs") == before


def test_the_list_is_newest_first_and_its_pages_neither_skip_nor_repeat(service: Any) -> None:
    ids = [service.submit(DIGITS_MLP | {"resources": {"device": "cuda"}, "name": f"page {n}"}) for n in range(5)]
    seen: list[str] = []
    after = None
    while len(seen) < 5:
        page = service.http.get("/jobs", params={"status": "queued", "limit": 2} | ({"after": after} if after else {}))
        seen += [job["id"] for job in page.json()["items"]]
        after = page.json()["next"]
        service.submit(DIGITS_MLP | {"resources": {"device": "cuda"}})  # arrives while somebody pages
    assert seen[:5] == list(reversed(ids))


@pytest.mark.parametrize("path", ["", "/metrics", "/result", "/logs"])
@pytest.mark.parametrize("job_id", [UNKNOWN, "not-a-uuid", "1", "{01a1fc05-96f8-74b8-9c20-173cf12834b1}"])
def test_an_unknown_job_is_not_found(service: Any, job_id: str, path: str) -> None:
    answer = service.http.get(f"/jobs/{job_id}{path}")
    assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")
    assert answer.headers["content-type"] == "application/problem+json"


def test_cancelling_an_unknown_job_is_not_found(service: Any) -> None:
    assert service.http.post(f"/jobs/{UNKNOWN}/cancel").json()["code"] == "job_not_found"


def test_the_service_describes_itself(service: Any) -> None:
    assert service.http.get("/healthz").json() == {"status": "alive"}
    assert service.http.get("/readyz").json()["status"] == "ready"
    assert service.http.get("/docs").status_code == 200
    paths = service.http.get("/openapi.json").json()["paths"]
    assert {"/jobs", "/jobs:validate", "/jobs/{job_id}", "/jobs/{job_id}/metrics", "/jobs/{job_id}/result"} <= set(
        paths
    )
