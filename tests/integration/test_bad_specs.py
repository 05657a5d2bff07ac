"""Bad specs: each is refused with the code and the path of the bad field, and nothing is stored."""

from copy import deepcopy
from typing import Any

import pytest

WHOLE: dict[str, Any] = {
    "name": "whole",
    "dataset": {"name": "cifar10", "resize": 32, "validation": 0.1},
    "network": {"name": "lenet", "dropout": 0.5, "batch_norm": True},
    "training": {
        "epochs": 50,
        "batch_size": 128,
        "seed": 7,
        "optimizer": {"name": "sgd", "learning_rate": 0.01, "momentum": 0.0, "weight_decay": 0.0},
        "l2_penalty": 0.0,
    },
    "resources": {"device": "auto", "time_limit_seconds": 3600},
    "tags": ["hw4"],
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the whole spec with one field changed or added."""
    spec = deepcopy(WHOLE)
    *parents, last = path.split(".")
    place = spec
    for parent in parents:
        place = place[parent]
    place[last] = value
    return spec


def sequential(*layers: dict[str, Any]) -> dict[str, Any]:
    return WHOLE | {"network": {"name": "sequential", "layers": list(layers)}}


CONV5 = {"kind": "conv2d", "out_channels": 4, "kernel_size": 5}
POOL8 = {"kind": "max_pool2d", "kernel_size": 8}
FLATTEN, LINEAR = {"kind": "flatten"}, {"kind": "linear", "out_features": 10}

BAD: list[tuple[dict[str, Any], str, str]] = [
    ({}, "dataset", "missing"),
    ({"dataset": {"name": "digits"}}, "network", "missing"),
    ({"dataset": {}, "network": {"name": "mlp"}}, "dataset.name", "missing"),
    ({"dataset": {"name": "digits"}, "network": {}}, "network.name", "missing"),
    (changed("datset", {}), "datset", "extra_forbidden"),
    (changed("dataset.name", "imagenet"), "dataset.name", "literal_error"),
    (changed("dataset.name", "../etc/passwd"), "dataset.name", "literal_error"),
    (changed("dataset.path", "/etc"), "dataset.path", "extra_forbidden"),
    (changed("dataset.resize", 3), "dataset.resize", "greater_than_equal"),
    (changed("dataset.resize", 10_000), "dataset.resize", "less_than_equal"),
    (changed("dataset.resize", 32.5), "dataset.resize", "int_type"),
    (changed("dataset.validation", 1.0), "dataset.validation", "validation_split"),
    (changed("dataset.validation", -0.1), "dataset.validation", "validation_split"),
    (changed("dataset.validation", "train"), "dataset.validation", "validation_split"),
    (changed("dataset.validation", True), "dataset.validation", "validation_split"),
    (changed("dataset", "cifar10"), "dataset", "object_type"),
    (changed("network.name", "resnet9000"), "network.name", "literal_error"),
    (changed("network.dropout", 1.0), "network.dropout", "less_than"),
    (changed("network.dropout", "0.5"), "network.dropout", "float_type"),
    (changed("network.batch_norm", 1), "network.batch_norm", "bool_type"),
    (changed("network.hidden", [64]), "network.hidden", "extra_forbidden"),
    (changed("training.epochs", 0), "training.epochs", "greater_than_equal"),
    (changed("training.epochs", 2**31), "training.epochs", "less_than_equal"),
    (changed("training.epochs", True), "training.epochs", "int_type"),
    (changed("training.epochs", "10"), "training.epochs", "int_type"),
    (changed("training.batch_size", 0), "training.batch_size", "greater_than_equal"),
    (changed("training.batch_size", None), "training.batch_size", "int_type"),
    (changed("training.seed", -1), "training.seed", "greater_than_equal"),
    (changed("training.seed", 2**63), "training.seed", "less_than_equal"),
    (changed("training.optimizer.name", "adamax"), "training.optimizer.name", "literal_error"),
    (changed("training.optimizer.learning_rate", 0), "training.optimizer.learning_rate", "greater_than"),
    (changed("training.optimizer.learning_rate", -1e-3), "training.optimizer.learning_rate", "greater_than"),
    (changed("training.optimizer.momentum", 1.0), "training.optimizer.momentum", "less_than"),
    (changed("training.optimizer.nesterov", True), "training.optimizer.nesterov", "conflict"),
    (changed("training.l2_penalty", -1), "training.l2_penalty", "greater_than_equal"),
    (changed("resources.device", "tpu"), "resources.device", "literal_error"),
    (changed("resources.time_limit_seconds", 0), "resources.time_limit_seconds", "greater_than_equal"),
    (changed("name", ""), "name", "string_too_short"),
    (changed("name", "x" * 201), "name", "string_too_long"),
    (changed("name", "line\nbreak"), "name", "unprintable_text"),
    (changed("name", "nul\x00"), "name", "unprintable_text"),
    (changed("tags", ["a"] * 21), "tags", "too_long"),
    (changed("tags", ["a", 1]), "tags.1", "string_type"),
    (changed("network", {"name": "cnn", "channels": []}), "network.channels", "too_short"),
    (changed("network", {"name": "cnn", "channels": [8, 0]}), "network.channels.1", "greater_than_equal"),
    (changed("network", {"name": "cnn", "channels": [8] * 7}), "network", "layer_does_not_fit"),
    (changed("network", {"name": "mlp", "hidden": [65_536, 65_536]}), "network", "network_too_large"),
    (changed("dataset.resize", 28), "network", "layer_does_not_fit"),
    (sequential(), "network.layers", "too_short"),
    (sequential({"kind": "attention"}), "network.layers.0.kind", "literal_error"),
    (sequential({"out_features": 3}), "network.layers.0.kind", "missing"),
    (sequential({"kind": "conv2d", "out_channels": 4}), "network.layers.0.kernel_size", "missing"),
    (sequential(FLATTEN, LINEAR | {"out_features": 0}), "network.layers.1.out_features", "greater_than_equal"),
    (sequential(POOL8, CONV5, FLATTEN, LINEAR), "network.layers.1", "layer_does_not_fit"),
    (sequential(CONV5, LINEAR), "network.layers.1", "layer_does_not_fit"),
    (sequential(FLATTEN, CONV5), "network.layers.1", "layer_does_not_fit"),
    (sequential(FLATTEN, {"kind": "linear", "out_features": 9}), "network.layers.1", "layer_does_not_fit"),
    (sequential(*[{"kind": "relu"}] * 600), "network.layers", "too_long"),
]  # fmt: skip


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    """A service without workers: nothing here is to be run."""
    return start_service(workers=0)


@pytest.fixture(autouse=True)
def _nothing_is_stored(service: Any) -> Any:
    before = service.rows("SELECT count(*) AS n FROM jobs")
    yield
    assert service.rows("SELECT count(*) AS n FROM jobs") == before


def test_the_whole_spec_is_good(service: Any) -> None:
    assert service.http.post("/jobs:validate", json=WHOLE).status_code == 200


@pytest.mark.parametrize("path", ["/jobs", "/jobs:validate"])
@pytest.mark.parametrize(("spec", "loc", "code"), BAD)
def test_a_bad_spec_is_refused_at_its_field(service: Any, spec: dict[str, Any], loc: str, code: str, path: str) -> None:
    answer = service.http.post(path, json=spec)
    problem = answer.json()
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["code"] == "invalid_spec"
    assert {"type", "title", "status", "detail", "code", "errors"} == set(problem)
    assert (loc, code) in [(error["loc"], error["code"]) for error in problem["errors"]]
    assert all(error["message"] for error in problem["errors"])


def test_every_bad_field_is_named_at_once(service: Any) -> None:
    spec = changed("training.epochs", 0) | {"dataset": {"name": "x"}, "colour": "red"}
    errors = service.http.post("/jobs", json=spec).json()["errors"]
    assert {error["loc"] for error in errors} == {"training.epochs", "dataset.name", "colour"}


def test_a_layer_that_does_not_fit_is_named_with_its_index_and_the_shapes(service: Any) -> None:
    (error,) = service.http.post("/jobs", json=sequential(POOL8, CONV5, FLATTEN, LINEAR)).json()["errors"]
    assert "layer 1 (conv2d)" in error["message"]
    assert "(3, 4, 4)" in error["message"]
    assert "5x5" in error["message"]
    (error,) = service.http.post("/jobs", json=sequential(CONV5, LINEAR)).json()["errors"]
    assert "layer 1 (linear)" in error["message"]
    assert "(4, 28, 28)" in error["message"]
    assert "flatten" in error["message"]


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", JSON, 400, "invalid_json"),
        (b'{"dataset": NaN}', JSON, 400, "invalid_json"),
        (b'{"dataset": -Infinity}', JSON, 400, "invalid_json"),
        (b'{"name": "a", "name": "b"}', JSON, 400, "invalid_json"),
        (b'{"name": "\xff"}', JSON, 400, "invalid_json"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, JSON, 400, "invalid_json"),
        (b"[" * 200_000, JSON, 400, "invalid_json"),
        (b'{"training": {"epochs": ' + b"9" * 5_000 + b"}}", JSON, 400, "invalid_json"),
        (b"[]", JSON, 422, "invalid_spec"),
        (b"null", JSON, 422, "invalid_spec"),
        (b"", JSON, 422, "invalid_spec"),
        (b'{"name": "' + b"x" * 1_048_576 + b'"}', JSON, 413, "body_too_large"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        (b"{}", {}, 415, "unsupported_media_type"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_body_that_is_no_spec_at_all_is_a_problem_too(
    service: Any, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    answer = service.http.post("/jobs", content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_body_is_bounded_also_where_no_body_is_read(service: Any) -> None:
    path = "/jobs/01a1fc05-96f8-74b8-9c20-173cf12834b1/cancel"
    assert service.http.post(path, content=b"x" * 2_000_000).json()["code"] == "body_too_large"


def test_a_number_too_large_for_a_float_is_refused_at_its_field(service: Any) -> None:
    body = b'{"dataset":{"name":"digits"},"network":{"name":"mlp"},"training":{"optimizer":{"learning_rate":1e999}}}'
    problem = service.http.post("/jobs", content=body, headers=JSON).json()
    assert [(e["loc"], e["code"]) for e in problem["errors"]] == [("training.optimizer.learning_rate", "finite_number")]


def test_a_lone_surrogate_is_refused_wherever_it_stands(service: Any) -> None:
    for body in (b'{"name": "\\ud800"}', b'{"\\ud800": 1}', b'{"network": {"name": "\\ud800"}}'):
        assert service.http.post("/jobs", content=body, headers=JSON).status_code == 422


@pytest.mark.parametrize(
    ("path", "loc"),
    [
        ("/jobs?limit=0", "limit"),
        ("/jobs?limit=1000", "limit"),
        ("/jobs?status=done", "status"),
        ("/jobs?after=yesterday", "after"),
    ],
)
def test_a_bad_query_is_refused_at_its_parameter(service: Any, path: str, loc: str) -> None:
    answer = service.http.get(path)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert [error["loc"] for error in answer.json()["errors"]] == [loc]


@pytest.mark.parametrize(("query", "loc"), [("after=-2", "after"), ("wait=31", "wait"), ("wait=nan", "wait")])
def test_a_bad_wait_is_refused_at_its_parameter(service: Any, query: str, loc: str) -> None:
    answer = service.http.get(f"/jobs/01a1fc05-96f8-74b8-9c20-173cf12834b1/metrics?{query}")
    assert [error["loc"] for error in answer.json()["errors"]] == [loc]


def test_an_unknown_path_and_a_wrong_method_are_problems(service: Any) -> None:
    assert service.http.get("/nowhere").json()["code"] == "not_found"
    answer = service.http.delete("/jobs")
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
