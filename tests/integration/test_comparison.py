"""Jobs beside each other, over HTTP: two learning rates with two seeds each, another network, a regression."""

import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from alembic import command
from scipy import stats  # type: ignore[import-untyped]

from migrations import config
from models.layers import Linear
from models.network import summarise
from models.result import essentials

MLP = {"name": "mlp", "hidden": [16]}
BEFORE_PREDICTIONS = "d6b2a1e48f22"
UNKNOWN = "01a1fc05-96f8-74b8-9c20-173cf1283400"
RATES, SEEDS = (0.05, 0.001), (1, 2)


def spec(**changes: Any) -> dict[str, Any]:
    training = {"epochs": 3, "seed": 1} | changes.pop("training", {})
    return {"dataset": {"name": "digits"}, "network": MLP, "training": training} | changes


def run(service: Any, *specs: dict[str, Any]) -> list[str]:
    jobs = [service.submit(each) for each in specs]
    for job in jobs:
        assert service.wait_for_end(job)["status"] == "succeeded", service.http.get(f"/jobs/{job}/logs").text
    return jobs


def ask(service: Any, *jobs: str, **parameters: Any) -> dict[str, Any]:
    answer = service.http.get("/compare", params={"job": list(jobs), **parameters})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


@pytest.fixture(scope="module")
def mlps(service: Any) -> list[str]:
    """Both seeds of the first learning rate, then both of the second."""
    specs = [
        spec(name=f"{rate} {seed}", training={"seed": seed, "optimizer": {"learning_rate": rate}})
        for rate in RATES
        for seed in SEEDS
    ]
    return run(service, *specs)


@pytest.fixture(scope="module")
def regression(service: Any, digits_cache: Path) -> str:
    (digits_cache / "tables").mkdir(exist_ok=True)
    lines = ["area,price", *(f"{area},{1000 * area}" for area in range(50))]
    (digits_cache / "tables" / "areas.csv").write_text("\n".join(lines))
    dataset = {"name": "table", "file": "areas.csv", "target": "price", "features": ["area"]}
    (job,) = run(service, spec(dataset=dataset))
    return job


@pytest.fixture(scope="module")
def comparison(service: Any, mlps: list[str]) -> dict[str, Any]:
    return ask(service, *mlps)


def test_jobs_stand_in_the_order_asked_for_with_what_their_results_say(
    service: Any, mlps: list[str], comparison: dict[str, Any]
) -> None:
    assert [job["id"] for job in comparison["jobs"]] == mlps
    for job_id, shown in zip(mlps, comparison["jobs"], strict=True):
        result = service.http.get(f"/jobs/{job_id}/result").json()
        assert shown["scores"] == {"loss": result["loss"], "accuracy": result["accuracy"], "regression": None}
        assert shown["times"]["epoch_seconds_median"] == result["timing"]["epoch_seconds"]["median"]
        assert shown["times"]["total_seconds"] == result["timing"]["total_seconds"]
        assert shown["latency"] == result["timing"]["latency"]
        assert (shown["parameters"], shown["macs_per_sample"]) == (64 * 16 + 16 + 170, 64 * 16 + 160)
        assert (shown["seed"], shown["best_epoch"], shown["epochs"]) == (result["seed"], result["best_epoch"], 3)
        assert (shown["status"], shown["task"], shown["user"]) == ("succeeded", "classification", "admin")
        assert (shown["device"], shown["note"]) == (result["environment"]["device"], None)


def test_only_the_learning_rate_differs_seeds_and_names_apart(mlps: list[str], comparison: dict[str, Any]) -> None:
    rates = [RATES[0], RATES[0], RATES[1], RATES[1]]
    assert comparison["spec_differences"] == [
        {"path": "training.optimizer.learning_rate", "values": dict(zip(mlps, rates, strict=True))}
    ]


def test_equal_networks_are_said_to_be(mlps: list[str], comparison: dict[str, Any]) -> None:
    assert [each["job_id"] for each in comparison["network_differences"]] == mlps[1:]
    for each in comparison["network_differences"]:
        assert (each["first_job_id"], each["identical"]) == (mlps[0], True)
        assert [layer["first"]["layer"]["kind"] for layer in each["layers"]] == ["flatten", "linear", "relu", "linear"]


def test_curves_are_those_of_the_jobs_epoch_by_epoch(service: Any, mlps: list[str], comparison: dict[str, Any]) -> None:
    curves = comparison["curves"]
    assert (curves["epochs"], curves["sampled"]) == ([1, 2, 3], False)
    for place, job in enumerate(mlps):
        recorded = service.epochs(job)
        for metric in curves.keys() - {"epochs", "sampled"}:
            assert curves[metric][place] == [epoch[metric] for epoch in recorded]


def test_every_pair_is_tested_on_the_predictions_themselves(
    service: Any, mlps: list[str], comparison: dict[str, Any]
) -> None:
    right = {}
    for job in mlps:
        items = service.http.get(f"/jobs/{job}/predictions").json()["items"]
        right[job] = [each["label"] == each["prediction"] for each in items]
    pairs = comparison["significance"]
    assert len(pairs) == 6
    for pair in pairs:
        outcomes = list(zip(right[pair["first"]], right[pair["second"]], strict=True))
        b, c = outcomes.count((True, False)), outcomes.count((False, True))
        assert (pair["samples"], pair["b"], pair["c"], pair["reason"]) == (360, b, c, None)
        assert pair["accuracy_difference"] == pytest.approx((b - c) / 360)
        if b + c < 25:
            assert pair["p_value"] == pytest.approx(stats.binomtest(b, b + c).pvalue if b + c else 1.0)
        else:
            assert pair["p_value"] == pytest.approx(stats.chi2.sf((max(0, abs(b - c) - 1)) ** 2 / (b + c), 1))
        assert pair["p_value"] <= pair["p_value_holm"] <= 1
    across = [pair for pair in pairs if pair["first"] in mlps[:2] and pair["second"] in mlps[2:]]
    assert all(pair["p_value_holm"] < 0.05 for pair in across), "one rate learns, the other hardly does"


def test_jobs_that_differ_in_the_seed_are_summed_up(mlps: list[str], comparison: dict[str, Any]) -> None:
    assert [group["jobs"] for group in comparison["groups"]] == [mlps[:2], mlps[2:]]
    accuracies = {job["id"]: job["scores"]["accuracy"] for job in comparison["jobs"]}
    for group in comparison["groups"]:
        assert (group["over"], group["n"], group["seeds"]) == ("jobs", 2, list(SEEDS))
        for split in ("train", "validation", "test"):
            values = [accuracies[job][split] for job in group["jobs"]]
            score = group["accuracy"][split]
            assert score["mean"] == pytest.approx(fmean(values))
            assert score["standard_deviation"] == pytest.approx(stdev(values))
            low, high = score["interval_95"]
            assert high - low == pytest.approx(2 * 12.7062 * stdev(values) / 2**0.5, rel=1e-5)


def test_a_resized_data_set_has_the_same_samples_and_its_network_is_aligned(service: Any, mlps: list[str]) -> None:
    (wide,) = run(service, spec(dataset={"name": "digits", "resize": 16}, network=MLP | {"dropout": 0.5}))
    answer = ask(service, mlps[0], wide)
    (pair,) = answer["significance"]
    assert (pair["matched_by"], pair["reason"], pair["samples"]) == ("published_order", None, 360)
    (network,) = answer["network_differences"]
    assert network["identical"] is False
    shown = [(each["status"], (each["first"] or each["other"])["layer"]["kind"]) for each in network["layers"]]
    assert shown == [
        ("changed", "flatten"),
        ("changed", "linear"),
        ("same", "relu"),
        ("added", "dropout"),
        ("same", "linear"),
    ]
    hidden = network["layers"][1]
    assert hidden["differs"] == ["parameters", "macs"]
    assert hidden["other"]["parameters"] == summarise([Linear(out_features=16)], (256,)).parameters
    assert {"dataset.resize", "network.dropout"} <= {each["path"] for each in answer["spec_differences"]}


def test_a_regression_and_a_classification_cannot_be_tested_against_each_other(
    service: Any, mlps: list[str], regression: str
) -> None:
    answer = ask(service, mlps[0], regression)
    (pair,) = answer["significance"]
    assert (pair["reason"], pair["p_value"], pair["p_value_holm"]) == ("not_a_classification", None, None)
    assert regression in pair["message"]
    (shown,) = [job for job in answer["jobs"] if job["id"] == regression]
    result = service.http.get(f"/jobs/{regression}/result").json()
    assert (shown["task"], shown["scores"]["accuracy"]) == ("regression", None)
    assert shown["scores"]["regression"] == result["regression"]["original"]
    assert answer["curves"]["train_accuracy"][1] == [None, None, None]


def test_the_replicas_of_a_job_are_summed_up_as_in_its_result(service: Any, mlps: list[str]) -> None:
    (replicated,) = run(service, spec(training={"replicas": 2}))
    result = service.http.get(f"/jobs/{replicated}/result").json()
    (group,) = ask(service, mlps[0], replicated)["groups"]
    assert (group["over"], group["jobs"], group["seeds"], group["n"]) == ("replicas", [replicated], [1, 2], 2)
    assert (group["accuracy"], group["loss"]) == (result["replicas"]["accuracy"], result["replicas"]["loss"])


def test_a_running_job_has_curves_and_no_scores_yet(service: Any, mlps: list[str]) -> None:
    running = service.submit(spec(training={"epochs": 100_000}))
    service.wait_for_epoch(running, 20)
    answer = ask(service, mlps[0], running, max_points=8)
    shown = answer["jobs"][1]
    assert (shown["status"], shown["scores"], shown["times"], shown["device"]) == ("running", None, None, None)
    assert shown["parameters"] == answer["jobs"][0]["parameters"], "known before the end"
    assert shown["note"] == "The job is running and has no result: its scores are null."
    assert shown["best_epoch"] >= 1
    (pair,) = answer["significance"]
    assert pair["reason"] == "no_result"
    curves = answer["curves"]
    assert curves["sampled"] is True
    assert len(curves["epochs"]) <= 8
    assert curves["epochs"][-1] >= 20
    assert curves["train_loss"][0][-1] is None, "the first job ended long before"
    assert None not in curves["train_loss"][1]
    service.wait_for_epoch(running, 60)
    whole = ask(service, mlps[0], running, max_points=32)["curves"]
    assert [loss for loss in whole["train_loss"][0] if loss is not None] == [
        epoch["train_loss"] for epoch in service.epochs(mlps[0])
    ], "all of the short one, however long the other is"
    service.http.post(f"/jobs/{running}/cancel")
    service.wait_for_end(running)


@pytest.mark.parametrize("count", [0, 1, 51])
def test_fewer_than_two_and_more_than_fifty_jobs_are_refused(service: Any, count: int) -> None:
    jobs = [f"01a1fc05-96f8-74b8-9c20-{number:012x}" for number in range(count)]
    answer = service.http.get("/compare", params={"job": jobs})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["errors"][0]["loc"] == "job"


def test_a_job_named_twice_or_no_id_at_all_is_refused(service: Any, mlps: list[str]) -> None:
    twice = service.http.get("/compare", params={"job": [mlps[0], mlps[0].upper()]})
    assert twice.status_code == 422
    assert f"Job {mlps[0]} is named twice" in twice.json()["detail"]
    assert service.http.get("/compare", params={"job": [mlps[0], "1 OR 1=1"]}).status_code == 422
    assert service.http.get("/compare", params={"job": mlps[:2], "max_points": 1}).status_code == 422


@pytest.mark.parametrize(
    ("asked", "code"), [({"max_point": 2}, "unknown_parameter"), ({"max_points": [2, 3]}, "repeated")]
)
def test_a_parameter_that_is_unknown_or_comes_twice_is_refused_by_name(
    service: Any, mlps: list[str], asked: dict[str, Any], code: str
) -> None:
    answer = service.http.get("/compare", params={"job": mlps[:2], **asked})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert [(each["loc"], each["code"]) for each in answer.json()["errors"]] == [(next(iter(asked)), code)]


def test_a_job_that_is_not_there_is_named(service: Any, mlps: list[str]) -> None:
    answer = service.http.get("/compare", params={"job": [mlps[0], UNKNOWN]})
    assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")
    assert UNKNOWN in answer.json()["detail"]


def test_without_a_token_nothing_is_compared(service: Any, mlps: list[str]) -> None:
    answer = service.anonymous().get("/compare", params={"job": mlps})
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


def test_where_members_see_their_own_jobs_a_foreign_one_is_not_compared(service: Any, mlps: list[str]) -> None:
    token = service.new_user("mallory")
    with service.another_api(jobs_visible="own") as api, api.client(token) as client:
        mine = [client.post("/jobs", json=spec()).json()["id"] for _ in range(2)]
        refused = client.get("/compare", params={"job": [mine[0], mlps[0]]})
        assert (refused.status_code, refused.json()["code"]) == (404, "job_not_found")
        assert mlps[0] in refused.json()["detail"]
        assert client.get("/compare", params={"job": mine}).status_code == 200
        assert client.get(f"/jobs/{mlps[0]}/predictions").status_code == 404
    with service.client(token) as client:
        assert client.get("/compare", params={"job": [mine[0], mlps[0]]}).status_code == 200, "the lab's are visible"


def test_results_of_before_can_be_compared_after_the_migration(
    service: Any, start_service: Any, mlps: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (replicated,) = run(service, spec(training={"replicas": 2, "epochs": 1}))
    older = start_service(workers=0)
    monkeypatch.setenv("DATABASE_URL", older.stack.database_url)
    bodies = {older.submit(spec()): service.http.get(f"/jobs/{job}/result").text for job in (mlps[0], replicated)}
    for job, body in bodies.items():
        older.rows("INSERT INTO results (job_id, attempt, body, essentials) VALUES (%s, 1, %s, '{}')", job, body)
    command.downgrade(config(), BEFORE_PREDICTIONS)
    command.upgrade(config(), "head")
    for job, body in bodies.items():
        (row,) = older.rows("SELECT essentials FROM results WHERE job_id = %s", job)
        assert row["essentials"] == essentials(json.loads(body))
        assert "curves" not in json.dumps(row["essentials"])
