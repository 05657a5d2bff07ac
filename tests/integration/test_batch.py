"""Batches: up to 500 jobs in one request, all of them or none, or each on its own merits."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
import redis

from api.jobs.batch import MAX_BATCH_BYTES

SPEC: dict[str, Any] = {"dataset": {"name": "digits"}, "network": {"name": "mlp"}, "training": {"epochs": 1}}
BAD_EPOCHS = SPEC | {"training": {"epochs": 0}}
BAD_LAYERS = {
    "dataset": {"name": "digits"},
    "network": {"name": "sequential", "layers": [{"kind": "linear", "out_features": 10}]},
}


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    """A service without workers and scheduler: wake-ups stay where they were sent to."""
    service = start_service(workers=0)
    service.stack.kill_child("scheduler")
    return service


def batch(service: Any, specs: list[Any], mode: str | None = None, **headers: str) -> Any:
    body = {"jobs": specs} | ({"mode": mode} if mode else {})
    return service.http.post("/jobs:batch", json=body, headers=headers)


def count(service: Any, table: str) -> int:
    return int(service.rows(f"SELECT count(*) AS n FROM {table}")[0]["n"])


def test_all_specs_become_jobs_in_their_order(service: Any) -> None:
    before = count(service, "jobs")
    answer = batch(service, [SPEC | {"name": f"point {n}"} for n in range(7)])
    assert answer.status_code == 201
    items = answer.json()["items"]
    assert [item["status"] for item in items] == [201] * 7
    assert [item["job"]["name"] for item in items] == [f"point {n}" for n in range(7)]
    ids = [item["job"]["id"] for item in items]
    assert ids == sorted(ids), "the queue runs them in this order"
    assert count(service, "jobs") == before + 7
    for item in items:
        job = service.job(item["job"]["id"])
        assert (job["status"], job["name"], job["user"]) == ("queued", item["job"]["name"], "admin")
        assert job["spec"]["training"]["seed"] == item["job"]["seed"]
        assert [move["to_status"] for move in job["transitions"]] == ["queued"]
        assert len(service.rows("SELECT 1 FROM audit WHERE subject = %s", f"job:{job['id']}")) == 1


def test_a_batch_may_hold_recipes(service: Any) -> None:
    items = batch(service, [{"recipe": "housing-8"}, {"recipe": "lenet", "name": "mine"}]).json()["items"]
    assert [service.job(item["job"]["id"])["spec"]["recipe"] for item in items] == ["housing-8", "lenet"]


@pytest.mark.parametrize("mode", [None, "all"])
def test_one_bad_spec_refuses_all_and_each_bad_field_is_named(service: Any, mode: str | None) -> None:
    before = count(service, "jobs"), count(service, "transitions"), count(service, "audit")
    specs = [SPEC, SPEC | {"colour": "red"}, SPEC, BAD_EPOCHS | {"name": ""}, BAD_LAYERS, 5, {"recipe": "no such"}]
    answer = batch(service, specs, mode)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_spec")
    assert answer.headers["content-type"] == "application/problem+json"
    assert {(error["loc"], error["code"]) for error in answer.json()["errors"]} == {
        ("jobs.1.colour", "extra_forbidden"),
        ("jobs.3.training.epochs", "greater_than_equal"),
        ("jobs.3.name", "string_too_short"),
        ("jobs.4.network.layers.0", "layer_does_not_fit"),
        ("jobs.5", "object_type"),
        ("jobs.6.recipe", "unknown_recipe"),
    }
    assert (count(service, "jobs"), count(service, "transitions"), count(service, "audit")) == before


def test_each_good_spec_becomes_a_job_beside_bad_ones(service: Any) -> None:
    before = count(service, "jobs")
    answer = batch(service, [SPEC, BAD_EPOCHS, BAD_LAYERS, SPEC], "each")
    assert answer.status_code == 200
    items = answer.json()["items"]
    assert [item["status"] for item in items] == [201, 422, 422, 201]
    assert count(service, "jobs") == before + 2
    assert service.job(items[3]["job"]["id"])["status"] == "queued"
    alone = service.http.post("/jobs", json=BAD_EPOCHS).json()
    assert items[1]["error"] == alone, "the problem is the one that the spec alone would get"


def test_a_batch_of_bad_specs_alone_stores_nothing(service: Any) -> None:
    before = count(service, "jobs")
    answer = batch(service, [BAD_EPOCHS] * 3, "each")
    assert [item["status"] for item in answer.json()["items"]] == [422] * 3
    assert count(service, "jobs") == before


def test_a_lone_surrogate_in_one_spec_does_not_spoil_the_answer(service: Any) -> None:
    body = b'{"mode": "each", "jobs": [{"\\ud800": 1}, {"dataset": {"name": "digits"}, "network": {"name": "mlp"}}]}'
    answer = service.http.post("/jobs:batch", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200
    assert [item["status"] for item in answer.json()["items"]] == [422, 201]


@pytest.mark.parametrize(
    ("body", "loc", "code"),
    [
        ({"jobs": []}, "jobs", "too_short"),
        ({"jobs": [SPEC] * 501}, "jobs", "too_long"),
        ({"jobs": SPEC}, "jobs", "list_type"),
        ({}, "jobs", "missing"),
        ({"jobs": [SPEC], "mode": "some"}, "mode", "literal_error"),
        ({"jobs": [SPEC], "name": "x"}, "name", "extra_forbidden"),
    ],
)
def test_a_bad_batch_is_refused_at_its_field(service: Any, body: dict[str, Any], loc: str, code: str) -> None:
    before = count(service, "jobs")
    answer = service.http.post("/jobs:batch", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_spec")
    assert [(error["loc"], error["code"]) for error in answer.json()["errors"]] == [(loc, code)]
    assert count(service, "jobs") == before


def test_500_whole_specs_fit_and_a_body_beyond_the_limit_does_not(service: Any) -> None:
    before = count(service, "jobs")
    layers = [{"kind": "conv2d", "out_channels": 4, "kernel_size": 3, "padding": 1}, {"kind": "batch_norm2d"}] * 20
    network = {"name": "sequential", "layers": [*layers, {"kind": "flatten"}, {"kind": "linear", "out_features": 10}]}
    whole = SPEC | {"network": network, "name": "x" * 200, "tags": ["y" * 60] * 20}
    answer = batch(service, [whole] * 500)
    assert answer.status_code == 201, answer.text[:200]
    assert len({item["job"]["id"] for item in answer.json()["items"]}) == 500
    assert len({item["job"]["seed"] for item in answer.json()["items"]}) > 490, "each has a seed of its own"
    assert count(service, "jobs") == before + 500
    too_large = service.http.post(
        "/jobs:batch", content=b" " * (MAX_BATCH_BYTES + 1), headers={"Content-Type": "application/json"}
    )
    assert (too_large.status_code, too_large.json()["code"]) == (413, "body_too_large")


def test_an_answer_names_no_more_than_a_thousand_bad_fields(service: Any) -> None:
    hostile = {f"field {n}": 1 for n in range(2_000)}
    answer = batch(service, [hostile] * 10)
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 1_000


def test_a_few_wake_ups_are_sent_for_many_jobs_of_a_queue(service: Any) -> None:
    waiting = service.stack._overrides.get("TRAINYARD_REDIS_KEY_PREFIX", "trainyard:") + "default"
    with redis.Redis.from_url(service.stack.redis_url.replace("redis+socket", "unix")) as broker:
        time.sleep(0.5)  # what earlier tests have sent is there
        before = broker.llen(waiting)
        assert batch(service, [SPEC] * 50).status_code == 201
        deadline = time.monotonic() + 10
        while broker.llen(waiting) == before and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.5)  # for 46 more, if there were any
        assert broker.llen(waiting) == before + 4


def test_a_batch_with_a_key_is_stored_once_however_often_it_is_sent(service: Any) -> None:
    before, key = count(service, "jobs"), str(uuid4())
    with ThreadPoolExecutor(8) as pool:
        sent = [pool.submit(batch, service, [SPEC] * 100, **{"Idempotency-Key": key}) for _ in range(8)]
    answers = [future.result() for future in sent]
    assert {answer.status_code for answer in answers} <= {201, 409}
    made = {answer.content for answer in answers if answer.status_code == 201}
    assert len(made) == 1
    assert count(service, "jobs") == before + 100


def test_the_items_of_a_batch_are_documented(service: Any) -> None:
    schemas = service.http.get("/openapi.json").json()["components"]["schemas"]
    jobs = schemas["Batch"]["properties"]["jobs"]
    assert (jobs["minItems"], jobs["maxItems"]) == (1, 500)
    assert {"$ref": "#/components/schemas/JobSpec"} in jobs["items"]["anyOf"]
