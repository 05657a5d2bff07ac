"""Hostile requests, one a row: each has its exact status and code, stores nothing, and the service lives on."""

import json
from base64 import urlsafe_b64encode
from http.client import HTTPConnection
from typing import Any
from uuid import uuid4

import pytest

Row = tuple[str, str, dict[str, str], bytes, int, str | None]

JOB: dict[str, Any] = {"dataset": {"name": "digits"}, "network": {"name": "mlp"}}
JSON = {"Content-Type": "application/json"}
MEBIBYTE = 1_048_576
FLATTEN, LINEAR = {"kind": "flatten"}, {"kind": "linear", "out_features": 10}
TABLE = {"name": "table", "file": "a.csv", "target": "y", "features": ["x"]}
WEBHOOK = {"url": "https://hooks.example.org/", "events": ["job.failed"]}
SWEEP = {"spec": JOB, "objective": "validation_loss"}


def sent(body: Any, status: int = 422, code: str = "invalid_spec", path: str = "/jobs", **headers: str) -> Row:
    """Return a row that posts a body: bytes as they are, anything else as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return "POST", path, JSON | headers, content, status, code


def asked(target: str, status: int, code: str | None, method: str = "GET", **headers: str) -> Row:
    return method, target, headers, b"", status, code


def job(**parts: Any) -> Row:
    """Return a row that posts a good spec with these parts changed."""
    return sent(JOB | parts)


def raw(part: bytes) -> Row:
    """Return a row that posts a good spec with one part more, as these bytes."""
    return sent(json.dumps(JOB).encode()[:-1] + b", " + part + b"}")


def layers(*listed: dict[str, Any], **parts: Any) -> Row:
    return job(network={"name": "sequential", "layers": list(listed)}, **parts)


def nested(depth: int, layer: dict[str, Any], **fields: Any) -> dict[str, Any]:
    for _ in range(depth):
        layer = {"kind": "residual", "layers": [layer], **fields}
    return layer


def cursor(*place: Any) -> str:
    return urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


BODIES = {
    "brackets 200,000 deep": sent(b"[" * 200_000, 400, "invalid_json"),
    "objects 40 deep": sent(b'{"a":' * 40 + b"1" + b"}" * 40, 400, "invalid_json"),
    "a spec 33 deep": sent(b'{"metadata":' * 33 + b"{}" + b"}" * 33, 400, "invalid_json"),
    "NaN": sent(b'{"training": {"l2_penalty": NaN}}', 400, "invalid_json"),
    "minus infinity": sent(b'{"training": {"l2_penalty": -Infinity}}', 400, "invalid_json"),
    "an integer of 10,000 digits": sent(b'{"training": {"epochs": ' + b"9" * 10_000 + b"}}", 400, "invalid_json"),
    "a duplicate key": sent(b'{"name": "a", "name": "b"}', 400, "invalid_json"),
    "a duplicate key in disguise": sent(b'{"name": "a", "n\\u0061me": "b"}', 400, "invalid_json"),
    "a lone byte": sent(b'{"name": "\xff"}', 400, "invalid_json"),
    "an overlong slash": sent(b'{"name": "\xc0\xaf"}', 400, "invalid_json"),
    "UTF-16": sent('{"name": "a"}'.encode("utf-16"), 400, "invalid_json"),
    "a raw line break in text": sent(b'{"name": "a\nb"}', 400, "invalid_json"),
    "half a body": sent(b'{"dataset": {"name"', 400, "invalid_json"),
    "two bodies": sent(b"{} {}", 400, "invalid_json"),
    "a list": sent([]),
    "a string": sent("job"),
    "null": sent(None),
    "nothing": sent(b""),
    "plain text": sent(b"{}", 415, "unsupported_media_type", **{"Content-Type": "text/plain"}),
    "a form": sent(
        b"dataset=digits", 415, "unsupported_media_type", **{"Content-Type": "application/x-www-form-urlencoded"}
    ),
    "a file": sent(b"--x--", 415, "unsupported_media_type", **{"Content-Type": "multipart/form-data; boundary=x"}),
    "no content type": sent(b"{}", 415, "unsupported_media_type", **{"Content-Type": ""}),
    "bad gzip": sent(b"\x1f\x8b\x08garbage", 415, "unsupported_media_type", **{"Content-Encoding": "gzip"}),
    "a mebibyte of name": sent({"name": "x" * MEBIBYTE}, 413, "body_too_large"),
    "four mebibytes of jobs": sent({"jobs": ["x" * 4 * MEBIBYTE]}, 413, "body_too_large", "/jobs:batch"),
    "a gibibyte announced": sent(b"{", 413, "body_too_large", **{"Content-Length": str(2**30)}),
    "10^5000 bytes announced": sent(b"{", 400, "malformed_request", **{"Content-Length": "9" * 5_000}),
}
NUMBERS = {
    "1e999": raw(b'"training": {"optimizer": {"name": "sgd", "learning_rate": 1e999}}'),
    "minus 1e999": raw(b'"training": {"l2_penalty": -1e999}'),
    "2^31 epochs": job(training={"epochs": 2**31}),
    "2^63 as seed": job(training={"seed": 2**63}),
    "10^4000 as batch size": raw(b'"training": {"batch_size": 1' + b"0" * 4_000 + b"}"),
    "true for a number": job(training={"epochs": True}),
    "text for a number": job(training={"epochs": "1"}),
    "a fraction for a number": job(training={"epochs": 1.0}),
    "a list for a number": job(training={"epochs": [1]}),
    "a number for a switch": job(training={"deterministic": 1}),
    "a number for text": job(name=1),
    "an object for a list": job(tags={"0": "a"}),
    "text for a list": job(tags="abc"),
    "a list for an object": job(dataset=["digits"]),
    "null for an object": job(network=None),
    "2^64 classes": job(dataset=TABLE | {"classes": [str(number) for number in range(1_001)]}),
    "2^53 replicas": job(training={"replicas": 2**53}),
}
TEXTS = {
    "NUL in the name": job(name="a\0b"),
    "a bell in the name": job(name="\a"),
    "DEL in the name": job(name="\x7f"),
    "an escape sequence in a tag": job(tags=["\x1b[2J"]),
    "a lone surrogate in the name": raw(b'"name": "\\ud800"'),
    "a lone surrogate as a key": raw(b'"\\udfff": 1'),
    "a lone surrogate as a metadata key": raw(b'"metadata": {"\\ud800": "a"}'),
    "NUL in metadata": job(metadata={"a": "\0"}),
    "NUL in a metadata key": job(metadata={"a\0": "b"}),
    "a metadata key of SQL": job(metadata={"a'; DROP TABLE jobs": "b"}),
    "a metadata value of 513 characters": job(metadata={"a": "b" * 513}),
    "an object as a metadata value": job(metadata={"a": {"b": "c"}}),
    "17 metadata pairs": job(metadata={str(number): "" for number in range(17)}),
    "10,000 tags": job(tags=["a"] * 10_000),
    "a name of 100,000 characters": job(name="é" * 100_000),
    "an unknown field": job(__class__="x"),
    "an unassigned character": job(name="\U0010ffff"),
}
NETWORKS = {
    "10,000 layers": layers(*[{"kind": "relu"}] * 10_000),
    "1e12 parameters": job(network={"name": "mlp", "hidden": [65_536] * 64}),
    "1e12 parameters in one convolution": layers(
        *[{"kind": "conv2d", "out_channels": 65_536, "kernel_size": 1_024, "padding": 512}] * 2, FLATTEN, LINEAR
    ),
    "1e12 activations": layers(
        {"kind": "conv2d", "out_channels": 65_536, "kernel_size": 1},
        FLATTEN,
        LINEAR,
        dataset={"name": "cifar10", "resize": 512},
    ),
    "1e12 activations in a batch": layers(
        {"kind": "conv2d", "out_channels": 300, "kernel_size": 1},
        {"kind": "global_avg_pool2d"},
        FLATTEN,
        LINEAR,
        dataset={"name": "cifar10", "resize": 512},
        training={"batch_size": 40_000},
    ),
    "residuals nested 12 deep": layers(nested(12, {"kind": "relu"}), FLATTEN, LINEAR),
    "100^4 repetitions": layers(nested(4, {"kind": "relu"}, repeat=100), FLATTEN, LINEAR),
    "a layer of minus 1": layers(FLATTEN, LINEAR | {"out_features": -1}),
    "a kernel of 2^31": layers({"kind": "conv2d", "out_channels": 1, "kernel_size": 2**31}, FLATTEN, LINEAR),
    "weights from above": job(network={"name": "torchvision", "architecture": "resnet18", "weights_file": "../x.pt"}),
    "a layer kind of code": layers({"kind": "__import__('os').system('true')"}),
}
NAMES = {
    "a recipe from above": sent({"recipe": "../../etc/passwd"}),
    "a recipe with NUL": sent({"recipe": "lenet\0"}),
    "a data set from above": job(dataset={"name": "../../../etc/passwd"}),
    "a data set with a slash": job(dataset={"name": "digits/"}),
    "a table from above": job(dataset=TABLE | {"file": "../secret.csv"}),
    "a table from the root": job(dataset=TABLE | {"file": "/etc/passwd"}),
    "a table with a backslash": job(dataset=TABLE | {"file": "..\\secret.csv"}),
    "a hidden table": job(dataset=TABLE | {"file": ".secret.csv"}),
    "a folder that is its parent": job(dataset={"name": "images", "folder": "..", "classes": ["a", "b"], "resize": 8}),
    "a class of NUL": job(dataset={"name": "images", "folder": "a", "classes": ["a", "\0"], "resize": 8}),
    "501 jobs": sent({"jobs": [JOB] * 501}, path="/jobs:batch"),
    "a bad job among good ones": sent({"jobs": [JOB, JOB | {"name": "\0"}]}, path="/jobs:batch"),
    "a grid of 10^6 points": sent(
        SWEEP | {"parameters": {"kind": "grid", "values": {f"training.{name}": list(range(1_000)) for name in "ab"}}},
        path="/sweeps",
    ),
    "a sweep over __class__": sent(
        SWEEP | {"parameters": {"kind": "grid", "values": {"__class__.__init__": [1]}}}, path="/sweeps"
    ),
    "a sweep over a path of SQL": sent(
        SWEEP | {"parameters": {"kind": "list", "points": [{"a'; --": 1}]}}, path="/sweeps"
    ),
    "a range of 1e999": sent(
        json.dumps(SWEEP).encode()[:-1]
        + b', "parameters": {"kind": "random", "n": 1, "ranges": {"training.l2_penalty": '
        b'{"low": 0, "high": 1e999}}}}',
        path="/sweeps",
    ),
    "a webhook to a file": sent(WEBHOOK | {"url": "file:///etc/passwd"}, path="/webhooks"),
    "a webhook with a password": sent(WEBHOOK | {"url": "https://a:b@hooks.example.org/"}, path="/webhooks"),
    "a webhook with a line break": sent(WEBHOOK | {"url": "https://hooks.example.org/\r\nX: y"}, path="/webhooks"),
    "a webhook to the cloud's metadata": sent(
        WEBHOOK | {"url": "http://169.254.169.254/"}, code="webhook_host_not_allowed", path="/webhooks"
    ),
    "a user with a capital": sent({"name": "Ada"}, path="/users"),
    "a user from above": sent({"name": "../admin"}, path="/users"),
    "a user of Cyrillic": sent({"name": "\u0430dmin"}, path="/users"),
    "a token for the year 9999": sent(
        {"name": "a", "expires_at": "9999-12-31T23:59:59Z"}, 422, "bad_expiry", "/tokens"
    ),
    "a token from seconds": sent({"name": "a", "expires_at": 4_102_444_800}, path="/tokens"),
    "a token of no scope": sent({"name": "a", "scopes": []}, path="/tokens"),
    "a token of a scope that there is not": sent({"name": "a", "scopes": ["root"]}, path="/tokens"),
}
UUID = "01a1fc05-96f8-74b8-9c20-173cf12834b1"
PATHS = {
    "a dot": asked("/jobs/.", 404, "job_not_found"),
    "two dots": asked("/jobs/..", 404, "job_not_found"),
    "two dots in disguise": asked("/jobs/%2e%2e", 404, "job_not_found"),
    "a way up": asked("/jobs/../../etc/passwd", 404, "not_found"),
    "a way up in disguise": asked("/jobs/..%2f..%2fetc%2fpasswd", 404, "not_found"),
    "NUL": asked("/jobs/%00", 404, "job_not_found"),
    "a byte that is no text": asked("/jobs/%ff", 404, "job_not_found"),
    "a broken escape": asked("/jobs/%zz", 404, "job_not_found"),
    "braces": asked(f"/jobs/{{{UUID}}}", 404, "job_not_found"),
    "a URN": asked(f"/jobs/urn:uuid:{UUID}", 404, "job_not_found"),
    "no dashes": asked(f"/jobs/{UUID.replace('-', '')}", 404, "job_not_found"),
    "capitals": asked(f"/jobs/{UUID.upper()}", 404, "job_not_found"),
    "SQL": asked("/jobs/'%20OR%201=1--", 404, "job_not_found"),
    "10,000 characters": asked(f"/jobs/{'a' * 10_000}", 404, "job_not_found"),
    "a slash more": asked("/jobs/", 404, "not_found"),
    "two slashes": asked("//jobs", 404, "not_found"),
    "a delivery of 2^63": asked(f"/webhooks/{UUID}/deliveries/{2**63}/redeliver", 404, "delivery_not_found", "POST"),
    "a delivery of other digits": asked(
        f"/webhooks/{UUID}/deliveries/%D9%A1/redeliver", 404, "delivery_not_found", "POST"
    ),
    "a token of capitals": asked(f"/tokens/{'A' * 32}", 404, "token_not_found", "DELETE"),
    "a user of NUL": asked("/users/%00", 404, "user_not_found"),
    "a user with a line break": asked("/users/admin%0a", 404, "user_not_found"),
    "a recipe from above in its path": asked("/recipes/..%2fpyproject", 404, "not_found"),
    "a data set in another case": asked("/datasets/DIGITS", 404, "dataset_not_found"),
}
QUERIES = {
    "SQL as a status": asked("/jobs?status=queued'%20OR%20'1'='1", 422, "invalid_request"),
    "SQL as an order": asked("/jobs?sort=id;DROP%20TABLE%20jobs", 422, "invalid_request"),
    "SQL as a field": asked("/jobs?fields=id,(SELECT%201)", 422, "invalid_request"),
    "SQL as a field of the spec": asked("/jobs?fields=spec.a%7D'%20--", 422, "invalid_request"),
    "SQL as a cursor": asked("/jobs?after='%20OR%201=1--", 422, "invalid_request"),
    "SQL as a metadata key": asked("/jobs?metadata[a'%20OR%20'1]=b", 422, "invalid_request"),
    "SQL as a score": asked("/jobs?best.loss)%20OR%20(1>0", 422, "invalid_request"),
    "SQL as a user, who is nobody": asked("/jobs?user='%20OR%20'1'='1", 200, None),
    "a wildcard as text, which is none": asked("/jobs?text=%25", 200, None),
    "a forged cursor": asked(f"/jobs?sort=name&after={cursor('name', {'a': 1}, UUID)}", 422, "invalid_request"),
    "a cursor of NUL": asked(f"/jobs?sort=name&after={cursor('name', chr(0), UUID)}", 422, "invalid_request"),
    "a cursor of NaN": asked(
        f"/jobs?sort=test.loss&after={cursor('test.loss', float('nan'), UUID)}", 422, "invalid_request"
    ),
    "a cursor of brackets": asked(
        f"/jobs?sort=name&after={urlsafe_b64encode(b'[' * 1_500).decode()}", 422, "invalid_request"
    ),
    "NaN as a threshold": asked("/jobs?best.validation_accuracy>=nan", 422, "invalid_request"),
    "1e999 as a threshold": asked("/jobs?best.validation_accuracy>=1e999", 422, "invalid_request"),
    "NUL as a filter": asked("/jobs?user=%00", 422, "invalid_request"),
    "a byte that is no text as a filter": asked("/jobs?text=%ff", 200, None),
    "the year 10,000": asked("/jobs?created_after=99999-01-01T00:00:00Z", 422, "invalid_request"),
    "seconds for a time": asked("/jobs?created_after=0.5", 422, "invalid_request"),
    "the year 1, far in the east": asked("/jobs?created_after=0001-01-01T00:00:00%2B14:00", 200, None),
    "500 conditions": asked("/jobs?" + "&".join(["tag=a"] * 500), 422, "invalid_request"),
    "a limit of 1e3": asked("/jobs?limit=1e3", 422, "invalid_request"),
    "a limit of minus 1": asked("/jobs?limit=-1", 422, "invalid_request"),
    "a limit of 5,000 digits": asked(f"/jobs?limit={'9' * 5_000}", 422, "invalid_request"),
    "a filter that there is not": asked("/jobs?__proto__=1", 422, "invalid_request"),
    "epochs after 2^31": asked(f"/jobs/JOB/metrics?after={2**31}", 422, "invalid_request"),
    "a wait of infinity": asked("/jobs/JOB/metrics?wait=inf", 422, "invalid_request"),
    "a metric of SQL": asked("/jobs/JOB/metrics?names=train_loss;--", 422, "invalid_request"),
    "curves as a picture": asked("/jobs/JOB/metrics", 406, "not_acceptable", Accept="image/png"),
    "a job compared with itself": asked("/compare?job=JOB&job=JOB", 422, "invalid_request"),
    "51 jobs compared": asked("/compare?" + "&".join(f"job={uuid4()}" for _ in range(51)), 422, "invalid_request"),
    "NUL as a page of users": asked("/users?after=%00", 422, "invalid_value"),
    "NUL as a token's user": asked("/tokens?user=%00", 422, "invalid_value"),
    "NUL as an audited user": asked("/audit?user=%00", 422, "invalid_request"),
    "an audit after 2^63": asked(f"/audit?after={2**63}", 422, "invalid_request"),
}
HEADERS = {
    "no token": asked("/jobs", 401, "unauthenticated", Authorization=""),
    "Basic": asked("/jobs", 401, "unauthenticated", Authorization="Basic YTpi"),
    "a token of 10,000 characters": asked("/jobs", 401, "unauthenticated", Authorization=f"Bearer {'a' * 10_000}"),
    "a token of SQL": asked("/jobs", 401, "unauthenticated", Authorization="Bearer ' OR '1'='1"),
    "a foreign token": asked("/jobs", 401, "unauthenticated", Authorization=f"Bearer ty_{'0' * 32}_{'0' * 64}"),
    "a token of Latin-1": asked("/jobs", 401, "unauthenticated", Authorization="Bearer é"),
    "an Idempotency-Key of 256": sent(JOB, 422, "invalid_request", **{"Idempotency-Key": "a" * 256}),
    "an Idempotency-Key of Latin-1": sent(JOB, 422, "invalid_request", **{"Idempotency-Key": "é"}),
    "an Idempotency-Key of a tab": sent(JOB, 422, "invalid_request", **{"Idempotency-Key": "a\tb"}),
    "an empty Idempotency-Key": sent(JOB, 422, "invalid_request", **{"Idempotency-Key": ""}),
    "a Last-Event-ID of SQL": asked("/jobs/JOB/stream", 422, "invalid_event_id", **{"Last-Event-ID": "1' OR 1=1"}),
    "a Last-Event-ID of 2^64": asked(
        "/jobs/JOB/stream", 422, "invalid_event_id", **{"Last-Event-ID": f"{2**64}-0-0-0-0"}
    ),
    "a Last-Event-ID of 1,000": asked("/stream", 422, "invalid_request", **{"Last-Event-ID": "1" * 1_000}),
    "TRACE": asked("/jobs", 405, "method_not_allowed", "TRACE"),
    "OPTIONS": asked("/jobs", 405, "method_not_allowed", "OPTIONS"),
    "PATCH": asked("/jobs", 405, "method_not_allowed", "PATCH"),
    "DELETE": asked("/jobs", 405, "method_not_allowed", "DELETE"),
    "PUT": asked("/jobs/JOB", 405, "method_not_allowed", "PUT"),
    "another method in a header": asked("/jobs", 200, None, **{"X-HTTP-Method-Override": "DELETE"}),
    "another site's page": asked("/jobs", 200, None, Origin="https://evil.example"),
}
TABLE_OF_ROWS = {
    f"{group}: {name}": row
    for group, rows in {
        "body": BODIES, "number": NUMBERS, "text": TEXTS, "network": NETWORKS, "name": NAMES, "path": PATHS,
        "query": QUERIES, "header": HEADERS,
    }.items()
    for name, row in rows.items()
}  # fmt: skip


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    """A service without workers and scheduler: nothing is to change by itself."""
    service = start_service(workers=0, rate_limit_burst=100_000, webhook_hosts="hooks.example.org")
    service.stack.kill_child("scheduler")
    service.first_job = service.submit(JOB)
    return service


@pytest.mark.usefixtures("nothing_changes")
@pytest.mark.parametrize("row", TABLE_OF_ROWS.values(), ids=TABLE_OF_ROWS)
def test_a_hostile_request_is_answered_exactly_so_and_leaves_nothing_behind(service: Any, row: Row) -> None:
    method, target, headers, body, status, code = row
    answer, content = exchanged(service, method, target.replace("JOB", service.first_job), headers, body)
    problem = json.loads(content)
    assert (answer.status, problem.get("code")) == (status, code), problem
    assert answer.headers["x-request-id"]
    assert not [name for name in answer.headers if name.lower().startswith("access-control-")]
    if code is None:
        assert problem["items"] == [] or "user=" not in target
    else:
        assert answer.headers["content-type"] == "application/problem+json"
        assert problem["status"] == status
        assert problem["detail"]
    assert exchanged(service, "GET", "/healthz", {}, b"")[0].status == 200


def exchanged(service: Any, method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[Any, bytes]:
    """Send a request as it stands, without anything that a careful client would do to it."""
    connection = HTTPConnection("127.0.0.1", service.stack.port, timeout=20)
    try:
        connection.putrequest(method, target, skip_accept_encoding=True)
        named = {"Authorization": f"Bearer {service.stack.admin_token}", "Content-Length": str(len(body))} | headers
        for name, value in named.items():
            if value or name == "Idempotency-Key":
                connection.putheader(name, value.encode("latin-1"))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()
