"""Bodies that take long to check: they wait for each other, and nobody else waits for them."""

from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any
from uuid import uuid4

import pytest

from api.checks import MAX_IN_LINE

LONG_SECONDS = 300  # one check is done after the other
DIGITS = {"name": "digits"}
CONV: dict[str, Any] = {"kind": "conv2d", "out_channels": 4, "kernel_size": 3, "padding": 1}
HEAD: list[dict[str, Any]] = [{"kind": "flatten"}, {"kind": "linear", "out_features": 10}]
RATE = {"training.optimizer.learning_rate": {"low": 0.1, "high": 0.5}}
CHANNELS = {"network.layers.0.out_channels": {"low": 1, "high": 4096, "integer": True}}


def spec(*layers: dict[str, Any]) -> dict[str, Any]:
    return {"dataset": DIGITS, "network": {"name": "sequential", "layers": [*layers, *HEAD]}}


def random_sweep(whole: dict[str, Any], n: int, ranges: dict[str, Any]) -> dict[str, Any]:
    return {"spec": whole, "parameters": {"kind": "random", "n": n, "ranges": ranges}, "objective": "train_loss"}


BAD = spec(CONV | {"kernel_size": 31, "padding": 0})
# A network of its own for every point: about half a second.
LONG_SWEEP = random_sweep(spec(*[CONV] * 200), 250, CHANNELS)
LONG_BATCH = {"jobs": [spec(*[CONV] * 100, *[{"kind": "relu"}] * 200)] * 100}
REPEATED = random_sweep(spec(CONV, *[{"kind": "residual", "repeat": 100, "layers": [CONV] * 4}] * 8), 1_000, RATE)


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    """A service without workers, whose sweeps make no jobs meanwhile."""
    return start_service(workers=0, point_seconds=3_600)


def counts(service: Any) -> dict[str, int]:
    query = "SELECT (SELECT count(*) FROM {}) AS n"
    return {name: service.rows(query.format(name))[0]["n"] for name in ("sweeps", "jobs", "idempotent_answers")}


def sent_at_once(
    pool: ThreadPoolExecutor, http: Any, path: str, body: dict[str, Any], times: int, *, keyed: bool
) -> list[Future[Any]]:
    headers = [{"Idempotency-Key": str(uuid4())} if keyed else {} for _ in range(times)]
    return [pool.submit(http.post, path, json=body, headers=each, timeout=LONG_SECONDS) for each in headers]


def held(service: Any) -> int:
    """Return how many connections wait within a transaction for their process to go on."""
    query = "SELECT count(*) AS n FROM pg_stat_activity WHERE state = 'idle in transaction'"
    return int(service.rows(query)[0]["n"])


@pytest.mark.parametrize(
    ("path", "body", "keyed"),
    [
        pytest.param("/sweeps", LONG_SWEEP, True, id="sweeps with a key"),
        pytest.param("/sweeps", LONG_SWEEP, False, id="sweeps without one"),
        pytest.param("/jobs:batch", LONG_BATCH, True, id="batches with a key"),
        pytest.param("/sweeps", REPEATED, True, id="sweeps of repeated layers"),
    ],
)
def test_ten_long_checks_hold_no_connections_and_all_others_are_answered(
    service: Any, path: str, body: dict[str, Any], keyed: bool
) -> None:
    jobs = [service.submit(spec(CONV)) for _ in range(2)]
    before = counts(service)
    others = ["/jobs", "/readyz", f"/jobs/{jobs[0]}/metrics?max_points=20", f"/compare?job={jobs[0]}&job={jobs[1]}"]
    most_held = 0
    member = service.client(service.new_user(f"m-{uuid4()}"))
    with ThreadPoolExecutor(10) as pool:
        long = sent_at_once(pool, member, path, body, 10, keyed=keyed)
        while not all(future.done() for future in long):
            for other in others:
                answer = service.http.get(other)
                assert answer.status_code == 200, (other, answer.text)
                most_held = max(most_held, held(service))
    assert [future.result().status_code for future in long] == [201] * 10
    assert most_held < 5, "of ten connections"
    after = counts(service)
    assert after["idempotent_answers"] - before["idempotent_answers"] == (10 if keyed else 0)
    assert after["sweeps"] - before["sweeps"] == (10 if path == "/sweeps" else 0)
    assert after["jobs"] - before["jobs"] == (0 if path == "/sweeps" else 10 * 100)


def test_the_same_long_request_ten_times_at_once_is_stored_once(service: Any) -> None:
    before, headers = counts(service), {"Idempotency-Key": str(uuid4())}
    with ThreadPoolExecutor(10) as pool:
        send = partial(service.http.post, "/sweeps", json=LONG_SWEEP, headers=headers, timeout=LONG_SECONDS)
        sent = [pool.submit(send) for _ in range(10)]
    answers = [future.result() for future in sent]
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.content for answer in answers if answer.status_code == 201}) == 1
    again = service.http.post("/sweeps", json=LONG_SWEEP, headers=headers)
    assert (again.status_code, again.headers["idempotency-replayed"]) == (201, "true")
    assert counts(service) == before | {
        "sweeps": before["sweeps"] + 1,
        "idempotent_answers": before["idempotent_answers"] + 1,
    }


def test_a_key_of_another_request_is_refused_before_a_bad_body_is_checked(service: Any) -> None:
    headers = {"Idempotency-Key": str(uuid4())}
    assert service.http.post("/sweeps", json=random_sweep(spec(CONV), 2, RATE), headers=headers).status_code == 201
    before = counts(service)
    answer = service.http.post("/sweeps", json=random_sweep(BAD, 2, RATE), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert counts(service) == before


def test_a_bad_body_with_a_key_leaves_nothing_and_a_good_one_may_follow(service: Any) -> None:
    before, headers = counts(service), {"Idempotency-Key": str(uuid4())}
    for path, bad in (("/sweeps", random_sweep(BAD, 2, RATE)), ("/jobs:batch", {"jobs": [BAD]})):
        answer = service.http.post(path, json=bad, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_spec")
    assert counts(service) == before
    assert service.http.post("/sweeps", json=random_sweep(spec(CONV), 2, RATE), headers=headers).status_code == 201
    assert service.http.post("/jobs:batch", json={"jobs": [spec(CONV)]}, headers=headers).status_code == 422


def test_a_user_has_so_many_in_line_and_others_come_in_between(service: Any) -> None:
    greedy, modest = (service.client(service.new_user(f"u-{uuid4()}")) for _ in range(2))
    before = counts(service)
    with ThreadPoolExecutor(3 * MAX_IN_LINE) as pool:
        sent = sent_at_once(pool, greedy, "/sweeps", LONG_SWEEP, 3 * MAX_IN_LINE, keyed=True)
        wait(sent, return_when="FIRST_COMPLETED")
        assert modest.post("/sweeps", json=random_sweep(spec(CONV), 2, RATE)).status_code == 201
        assert any(not future.done() for future in sent), "it did not wait for all of them"
    answers = [future.result() for future in sent]
    refused = [answer for answer in answers if answer.status_code != 201]
    assert refused
    assert {(answer.status_code, answer.json()["code"]) for answer in refused} == {(429, "rate_limited")}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    stored = len(answers) - len(refused)
    assert counts(service) == before | {
        "sweeps": before["sweeps"] + stored + 1,
        "idempotent_answers": before["idempotent_answers"] + stored,
    }


@pytest.mark.usefixtures("nothing_changes")
def test_a_sweep_of_too_many_large_networks_is_refused(service: Any) -> None:
    answer = service.http.post("/sweeps", json=random_sweep(spec(*[CONV] * 500), 1_000, CHANNELS))
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_spec")
    assert [(error["loc"], error["code"]) for error in answer.json()["errors"]] == [("parameters", "too_long")]


def test_a_large_network_that_all_points_share_is_accepted(service: Any) -> None:
    assert service.http.post("/sweeps", json=random_sweep(spec(*[CONV] * 500), 1_000, RATE)).status_code == 201
