"""The predictions of a job, from its runner to a page of them."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

DIGITS: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "network": {"name": "mlp", "hidden": [16]},
    "training": {"epochs": 2, "seed": 3},
}
UNKNOWN = "01a1fc05-96f8-74b8-9c20-173cf1283400"


def run(service: Any, spec: dict[str, Any]) -> str:
    job_id: str = service.submit(spec)
    assert service.wait_for_end(job_id)["status"] == "succeeded", service.http.get(f"/jobs/{job_id}/logs").text
    return job_id


@pytest.fixture(scope="module")
def finished(service: Any) -> str:
    return run(service, DIGITS)


@pytest.fixture(scope="module")
def samples(service: Any, finished: str) -> list[dict[str, Any]]:
    """All predictions of the job."""
    answer = page(service, finished)
    assert answer["next"] is None
    items: list[dict[str, Any]] = answer["items"]
    return items


@pytest.fixture(scope="module")
def regression(service: Any, digits_cache: Path) -> str:
    (digits_cache / "tables").mkdir(exist_ok=True)
    lines = ["area,price", *(f"{area},{1000 * area + 0.25}" for area in range(50))]
    (digits_cache / "tables" / "prices.csv").write_text("\n".join(lines))
    dataset = {"name": "table", "file": "prices.csv", "target": "price", "features": ["area"]}
    return run(service, {"dataset": dataset, "network": {"name": "mlp"}, "training": {"epochs": 2, "seed": 3}})


def page(service: Any, job_id: str, **parameters: Any) -> dict[str, Any]:
    answer = service.http.get(f"/jobs/{job_id}/predictions", params=parameters)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_every_test_sample_is_there_once_and_agrees_with_the_result(
    service: Any, finished: str, samples: list[dict[str, Any]]
) -> None:
    answer = page(service, finished)
    result = service.http.get(f"/jobs/{finished}/result").json()
    assert set(answer) == {"job_id", "task", "classes", "samples", "samples_digest", "items", "next"}
    assert (answer["job_id"], answer["task"], answer["samples"]) == (finished, "classification", 360)
    assert answer["classes"] == [str(digit) for digit in range(10)]
    assert [each["index"] for each in samples] == list(range(360))
    matrix = [[0] * 10 for _ in range(10)]
    for each in samples:
        matrix[each["label"]][each["prediction"]] += 1
        assert 0.1 <= each["probability"] <= 1
    assert matrix == result["confusion_matrix"]


def test_the_row_is_stored_with_the_result_and_is_small(service: Any, finished: str) -> None:
    (row,) = service.rows(
        "SELECT attempt, samples, length(correct) AS bits, pg_column_size(p.*) AS bytes, indices, targets"
        " FROM predictions p JOIN results USING (job_id, attempt) WHERE job_id = %s",
        finished,
    )
    assert (row["attempt"], row["samples"], row["bits"], row["indices"], row["targets"]) == (1, 360, 45, None, None)
    assert row["bytes"] < 360 * 10


def test_pages_follow_each_other_without_gap_or_repeat(
    service: Any, finished: str, samples: list[dict[str, Any]]
) -> None:
    collected: list[dict[str, Any]] = []
    after: dict[str, int] = {}
    while True:
        answer = page(service, finished, limit=100, **after)
        collected += answer["items"]
        if answer["next"] is None:
            break
        assert answer["next"] == collected[-1]["index"]
        after = {"after": answer["next"]}
    assert collected == samples
    assert page(service, finished, limit=360)["next"] is None
    assert page(service, finished, after=359)["items"] == []
    assert page(service, finished, after=2**31 - 1)["items"] == []


@pytest.mark.parametrize("sort", ["probability", "-probability"])
def test_the_most_and_the_least_confident_come_first_over_all_pages(
    service: Any, finished: str, samples: list[dict[str, Any]], sort: str
) -> None:
    sign = -1 if sort.startswith("-") else 1
    expected = sorted(samples, key=lambda each: (sign * each["probability"], each["index"]))
    first = page(service, finished, sort=sort, limit=150)
    second = page(service, finished, sort=sort, limit=150, after=first["next"])
    third = page(service, finished, sort=sort, limit=150, after=second["next"])
    assert first["items"] + second["items"] + third["items"] == expected
    assert third["next"] is None
    assert page(service, finished, sort=sort, after=expected[-1]["index"])["items"] == []


def test_filters_apply_before_the_limit(service: Any, finished: str, samples: list[dict[str, Any]]) -> None:
    wrong = [each for each in samples if each["label"] != each["prediction"]]
    assert 0 < len(wrong) < 360
    assert page(service, finished, wrong=True)["items"] == wrong
    assert page(service, finished, wrong=True, limit=1)["items"] == wrong[:1]
    assert page(service, finished, wrong=False)["items"] == [each for each in samples if each not in wrong]
    assert page(service, finished, label=3)["items"] == [each for each in samples if each["label"] == 3]
    said = wrong[0]["prediction"]
    mistaken = page(service, finished, wrong=True, prediction=said, label=wrong[0]["label"])["items"]
    assert mistaken == [each for each in wrong if (each["label"], each["prediction"]) == (wrong[0]["label"], said)]
    assert page(service, finished, label=999)["items"] == []


def test_csv_and_ndjson_hold_the_same_samples(service: Any, finished: str, samples: list[dict[str, Any]]) -> None:
    path = f"/jobs/{finished}/predictions"
    table = service.http.get(path, params={"limit": 50}, headers={"Accept": "text/csv"})
    assert table.headers["content-type"].startswith("text/csv")
    assert table.headers["trainyard-next"] == "49"
    rows = [{name: json.loads(cell) for name, cell in row.items()} for row in csv.DictReader(io.StringIO(table.text))]
    assert rows == samples[:50]
    lines = service.http.get(path, headers={"Accept": "application/x-ndjson"})
    assert [json.loads(line) for line in lines.text.splitlines()] == samples
    assert "trainyard-next" not in lines.headers
    refused = service.http.get(path, headers={"Accept": "image/png"})
    assert (refused.status_code, refused.json()["code"]) == (406, "not_acceptable")


def test_a_regression_has_numbers_and_the_rows_of_its_table(service: Any, regression: str) -> None:
    answer = page(service, regression)
    assert (answer["task"], answer["classes"], answer["samples"]) == ("regression", [], 10)
    for each in answer["items"]:
        assert each["label"] == pytest.approx(1000 * each["index"] + 0.25, rel=1e-6, abs=0.01)
        assert each["probability"] is None
    table = service.http.get(f"/jobs/{regression}/predictions", headers={"Accept": "text/csv"}).text
    assert all(line.endswith(",") for line in table.splitlines()[1:]), "no probability"


@pytest.mark.parametrize("asked", [{"wrong": True}, {"label": 1}, {"prediction": 1}, {"sort": "-probability"}])
def test_what_only_a_classification_has_is_refused_of_a_regression(
    service: Any, regression: str, asked: dict[str, Any]
) -> None:
    answer = service.http.get(f"/jobs/{regression}/predictions", params=asked)
    assert (answer.status_code, answer.json()["code"]) == (422, "not_a_classification")


@pytest.mark.parametrize(
    "asked",
    [
        {"limit": 0},
        {"limit": 10_001},
        {"after": -1},
        {"after": 2**31},
        {"label": 1_000},
        {"label": "three"},
        {"wrong": "perhaps"},
        {"sort": "index; DROP TABLE predictions"},
        {"sorted": "probability"},
        {"limit": [1, 2]},
        {"after": 360, "sort": "probability"},
        {"after": 2**31 - 1, "sort": "-probability", "wrong": True},
    ],
)
def test_a_bad_parameter_is_refused_by_name(service: Any, finished: str, asked: dict[str, Any]) -> None:
    answer = service.http.get(f"/jobs/{finished}/predictions", params=asked)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["errors"][0]["loc"] == next(iter(asked))


def test_replicas_have_the_predictions_of_the_first(service: Any, finished: str) -> None:
    replicated = run(service, DIGITS | {"training": DIGITS["training"] | {"replicas": 2}})
    first, alone = page(service, replicated), page(service, finished)
    assert first["items"] == alone["items"]
    assert first["samples_digest"] == alone["samples_digest"]


def test_a_job_without_a_result_says_why_it_has_no_predictions(service: Any) -> None:
    job_id = service.submit(DIGITS | {"training": {"epochs": 100_000, "seed": 1}})
    service.wait_for_epoch(job_id, 1)
    early = service.http.get(f"/jobs/{job_id}/predictions")
    assert (early.status_code, early.json()["code"]) == (409, "job_not_finished")
    service.http.post(f"/jobs/{job_id}/cancel")
    service.wait_for_end(job_id)
    ended = service.http.get(f"/jobs/{job_id}/predictions")
    assert (ended.status_code, ended.json()["code"]) == (409, "no_result")
    assert service.rows("SELECT 1 FROM predictions WHERE job_id = %s", job_id) == []


def test_a_result_whose_predictions_were_not_kept_says_so(service: Any) -> None:
    job_id = run(service, DIGITS | {"training": {"epochs": 1, "seed": 4}})
    service.rows("DELETE FROM predictions WHERE job_id = %s", job_id)
    answer = service.http.get(f"/jobs/{job_id}/predictions")
    assert (answer.status_code, answer.json()["code"]) == (409, "no_predictions")
    assert service.http.get(f"/jobs/{job_id}/result").status_code == 200


def test_a_job_that_is_not_there_has_no_predictions(service: Any, finished: str) -> None:
    for job_id in (UNKNOWN, "42", "../etc"):
        assert service.http.get(f"/jobs/{job_id}/predictions").status_code == 404
    answer = service.anonymous().get(f"/jobs/{finished}/predictions")
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
