"""Sweeps on the running service: their points become jobs, once each, and what the jobs reach is told together."""

import json
import time
from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest

from models.sweep_spec import Bayesian
from worker.sweeps.bayesian import Tried, propose
from worker.sweeps.tick import advance_sweeps

LEARNING_RATE = "training.optimizer.learning_rate"
HIDDEN = "network.hidden"
BASE: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "network": {"name": "mlp", "hidden": [8]},
    "training": {"epochs": 1, "batch_size": 256},
}
RATES = {LEARNING_RATE: {"low": 0.001, "high": 1.0, "log": True}, HIDDEN: {"choices": [[4], [8, 4]]}}
STATUSES = ["queued", "running", "pausing", "paused", "cancelling", "cancelled", "succeeded", "failed"]


def sweep(parameters: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"spec": BASE, "parameters": parameters, "objective": "validation_accuracy"} | changes


def listed(*points: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "list", "points": list(points)}


def submit(service: Any, body: dict[str, Any]) -> dict[str, Any]:
    answer = service.http.post("/sweeps", json=body)
    assert answer.status_code == 201, answer.text
    view: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/sweeps/{view['id']}"
    return view


def wait_for(
    service: Any, sweep_id: str, reached: Callable[[dict[str, Any]], bool], seconds: float = 90
) -> dict[str, Any]:
    """Poll the sweep until `reached`, for at most `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        view: dict[str, Any] = service.http.get(f"/sweeps/{sweep_id}").json()
        if reached(view):
            return view
        time.sleep(0.1)
    raise AssertionError(f"not reached within {seconds} s: {view}")


def wait_for_end(service: Any, sweep_id: str) -> dict[str, Any]:
    return wait_for(service, sweep_id, lambda view: view["status"] in ("ended", "cancelled"))


def in_order(view: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the points of a sweep in the order in which they were tried."""
    return sorted(view["leaderboard"], key=lambda point: int(point["point"]))


def jobs_of(service: Any, sweep_id: str) -> list[dict[str, Any]]:
    query = """
        SELECT jobs.*, number, parameters FROM jobs LEFT JOIN sweep_points ON job_id = jobs.id
        WHERE jobs.sweep_id = %s ORDER BY number
    """
    rows: list[dict[str, Any]] = service.rows(query, sweep_id)
    return rows


def audited(service: Any, key: object, kind: str = "sweep") -> list[str]:
    query = "SELECT action FROM audit WHERE subject = %s ORDER BY id"
    return [row["action"] for row in service.rows(query, f"{kind}:{key}")]


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    """A service with two slots whose scheduler looks for points often."""
    return start_service(slots=2, point_seconds=0.2, sweep_seconds=0.5, poll_seconds=0.2)


@pytest.fixture(scope="module")
def idle(start_service: Any) -> Any:
    """A service without workers: what happens to a job, the test does."""
    return start_service(workers=0, point_seconds=0.2, sweep_seconds=0.5)


def test_a_grid_becomes_a_job_for_each_point_and_at_most_so_many_at_a_time(service: Any) -> None:
    values = {LEARNING_RATE: [0.5, 1e-6], HIDDEN: [[8], [16]]}
    submitted = submit(service, sweep({"kind": "grid", "values": values}, name="rates", max_concurrent=2))
    assert (submitted["status"], submitted["points"], submitted["tried"]) == ("running", 4, 0)
    assert (submitted["direction"], submitted["user"], submitted["best"]) == ("maximize", "admin", None)

    view = wait_for_end(service, submitted["id"])
    assert view["jobs"] == dict.fromkeys(STATUSES, 0) | {"succeeded": 4}
    ranked = view["leaderboard"]
    assert [point["rank"] for point in ranked] == [1, 2, 3, 4]
    assert [point["value"] for point in ranked] == sorted((point["value"] for point in ranked), reverse=True)
    assert {point["parameters"][LEARNING_RATE] for point in ranked[:2]} == {0.5}, "the tiny rate learns nothing"
    assert view["best"] == ranked[0]

    jobs = jobs_of(service, view["id"])
    seed = view["spec"]["training"]["seed"]
    for job, (rate, hidden) in zip(jobs, [(0.5, [8]), (0.5, [16]), (1e-6, [8]), (1e-6, [16])], strict=True):
        assert job["spec"]["training"]["optimizer"]["learning_rate"] == rate
        assert job["spec"]["network"]["hidden"] == hidden
        assert job["spec"]["training"]["seed"] == seed, "one split for all"
        assert job["name"] == f"rates #{job['number']}"
        assert service.job(str(job["id"]))["sweep"] == view["id"]
        point = in_order(view)[job["number"]]
        assert (point["job_id"], point["epoch"]) == (str(job["id"]), 1)
        assert point["value"] == service.epochs(str(job["id"]))[0]["validation_accuracy"]
    assert most_at_once(service, view["id"]) <= 2
    assert audited(service, view["id"]) == ["sweep.submit"]


def most_at_once(service: Any, sweep_id: str) -> int:
    """Return how many jobs of the sweep waited or ran at most, by the times of their transitions."""
    query = """
        SELECT max(n) AS most FROM (
          SELECT sum(CASE WHEN from_status IS NULL THEN 1 ELSE -1 END) OVER (ORDER BY at) AS n
          FROM transitions JOIN jobs ON jobs.id = job_id
          WHERE sweep_id = %s AND (from_status IS NULL OR to_status IN ('succeeded', 'failed', 'cancelled'))
        ) AS counts
    """
    return int(service.rows(query, sweep_id)[0]["most"])


def test_what_each_parameter_does_is_told_along_its_values(service: Any) -> None:
    points = [{LEARNING_RATE: rate} for rate in (1e-6, 0.05, 0.5)]
    view = wait_for_end(service, submit(service, sweep(listed(*points), objective="train_loss"))["id"])
    (along,) = view["summary"]
    assert (along["parameter"], along["n"]) == (LEARNING_RATE, 3)
    assert [entry["value"] for entry in along["values"]] == [1e-6, 0.05, 0.5]
    assert along["rank_correlation"] == pytest.approx(-1), "the larger the rate, the smaller the loss"
    assert [point["parameters"][LEARNING_RATE] for point in view["leaderboard"]] == [0.5, 0.05, 1e-6]


def test_a_test_figure_is_that_of_the_result(service: Any) -> None:
    body = sweep(listed({LEARNING_RATE: 0.5}), objective="test_loss")
    (point,) = wait_for_end(service, submit(service, body)["id"])["leaderboard"]
    result = service.http.get(f"/jobs/{point['job_id']}/result").json()
    assert (point["value"], point["epoch"]) == (result["loss"]["test"], None)


def test_of_replicas_the_mean_counts(service: Any) -> None:
    body = sweep(listed({"training.replicas": 2}), objective="validation_loss")
    (point,) = wait_for_end(service, submit(service, body)["id"])["leaderboard"]
    (epoch,) = service.epochs(point["job_id"])
    assert point["value"] == epoch["replicas"]["validation_loss"]["mean"] != epoch["validation_loss"]


def test_the_same_seed_tries_the_same_points_again(idle: Any) -> None:
    def points(**seed: int) -> tuple[Any, list[Any]]:
        view = submit(idle, sweep({"kind": "random", "n": 12, "ranges": RATES} | seed, max_concurrent=100))
        whole = wait_for(idle, view["id"], lambda view: view["tried"] == 12)
        return whole["parameters"]["seed"], [point["parameters"] for point in in_order(whole)]

    chosen, first = points()
    assert points(seed=chosen) == (chosen, first)
    assert points(seed=chosen + 1)[1] != first
    assert all(0.001 <= point[LEARNING_RATE] <= 1 and point[HIDDEN] in ([4], [8, 4]) for point in first)


def test_a_bayesian_sweep_proposes_each_point_from_the_rows_before_it(service: Any) -> None:
    parameters = {"kind": "bayesian", "n": 6, "seed": 3, "ranges": RATES}
    view = wait_for_end(service, submit(service, sweep(parameters, max_concurrent=1))["id"])
    assert view["jobs"]["succeeded"] == 6
    points = in_order(view)
    past = [Tried(point["parameters"], "succeeded", point["value"], point["epoch"]) for point in points]
    plan = Bayesian.model_validate(parameters)
    for number, point in enumerate(points):
        assert propose(plan, past[:number], maximizes=True) == point["parameters"]
    assert service.rows("SELECT count(*) AS n FROM alembic_version") == [{"n": 1}]


def test_a_proposal_that_does_not_fit_is_refused_and_the_sweep_goes_on(idle: Any) -> None:
    # Nesterov without momentum: neither the corners nor any single value shows it.
    ranges = {
        "training.optimizer.momentum": {"choices": [0.9, 0.0, 0.5]},
        "training.optimizer.nesterov": {"choices": [False, True]},
    }
    body = sweep({"kind": "bayesian", "n": 12, "seed": 1, "ranges": ranges}, max_concurrent=100)
    view = wait_for(idle, submit(idle, body)["id"], lambda view: view["tried"] == 12)
    refused = [point for point in view["leaderboard"] if point["status"] == "refused"]
    assert refused, "one of twelve is likely, and the seed makes it certain"
    assert view["leaderboard"][-len(refused) :] == refused, "they come last"
    for point in refused:
        assert list(point["parameters"].values()) == [0.0, True]
        assert (point["job_id"], point["reason"]) == (None, "invalid_spec")
        assert "Nesterov's variant needs a momentum above 0" in point["message"]
    assert len(jobs_of(idle, view["id"])) == view["jobs"]["queued"] == 12 - len(refused)


def test_a_cancel_ends_the_jobs_and_tries_no_more_points(service: Any) -> None:
    long = BASE | {"training": {"epochs": 100_000}}
    points = [{"training.batch_size": size} for size in (32, 64, 128, 256, 512)]
    sweep_id = submit(service, sweep(listed(*points), spec=long, max_concurrent=3))["id"]
    wait_for(service, sweep_id, lambda view: view["jobs"]["running"] == 2 and view["jobs"]["queued"] == 1)

    answer = service.http.post(f"/sweeps/{sweep_id}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelling")
    assert answer.json()["jobs"] | {"cancelling": 2, "cancelled": 1} == answer.json()["jobs"]
    assert service.http.post(f"/sweeps/{sweep_id}/cancel").status_code == 202
    view = wait_for_end(service, sweep_id)
    assert (view["status"], view["tried"], view["jobs"]["cancelled"]) == ("cancelled", 3, 3)
    assert {job["reason"] for job in jobs_of(service, sweep_id)} == {"cancelled_by_user"}
    assert audited(service, sweep_id) == ["sweep.submit", "sweep.cancel"]


def test_a_cancel_after_the_end_changes_nothing(service: Any) -> None:
    view = wait_for_end(service, submit(service, sweep(listed({"training.epochs": 1})))["id"])
    answer = service.http.post(f"/sweeps/{view['id']}/cancel")
    assert (answer.status_code, answer.json()) == (202, view)
    assert audited(service, view["id"]) == ["sweep.submit"]


def test_a_failed_job_comes_last_with_its_reason(service: Any) -> None:
    points = [{LEARNING_RATE: 1_000.0, "training.l2_penalty": 1_000.0, "training.epochs": 20}, {LEARNING_RATE: 0.1}]
    view = wait_for_end(service, submit(service, sweep(listed(*points), objective="train_loss"))["id"])
    best, failed = view["leaderboard"]
    assert (best["point"], best["rank"], best["status"]) == (1, 1, "succeeded")
    assert (failed["point"], failed["rank"], failed["status"]) == (0, None, "failed")
    assert failed["reason"] == "non_finite_loss"
    assert failed["message"]
    assert view["status"] == "ended"


def test_a_hopeless_job_is_stopped_on_its_worker_and_says_against_what_it_lost(service: Any) -> None:
    points = [{LEARNING_RATE: 0.5, "training.epochs": 3}, {LEARNING_RATE: 1e-6, "training.epochs": 100_000}]
    rule = {"kind": "median", "min_epochs": 2, "min_jobs": 1}
    view = wait_for_end(service, submit(service, sweep(listed(*points), max_concurrent=1, early_stop=rule))["id"])
    _, stopped = in_order(view)
    assert (stopped["status"], stopped["reason"], stopped["rank"]) == ("cancelled", "stopped_by_sweep", 2)
    assert stopped["message"].startswith("Stopped by its sweep at epoch ")
    assert "the median of what 1 finished jobs had" in stopped["message"]
    moves = service.job(stopped["job_id"])["transitions"]
    assert [move["to_status"] for move in moves] == ["queued", "running", "cancelling", "cancelled"]
    assert [move["message"] for move in moves[2:]] == [stopped["message"]] * 2
    assert view["status"] == "ended", "the sweep itself was not cancelled"


def make_running(service: Any, job_id: Any, *accuracies: float) -> None:
    """Bring a queued job to where a worker would have it after so many epochs."""
    service.rows(
        "UPDATE jobs SET status = 'running', attempt = 1, lease_expires_at = now() + interval '1 hour' WHERE id = %s",
        job_id,
    )
    for epoch, accuracy in enumerate(accuracies, start=1):
        service.rows(
            "INSERT INTO epochs (job_id, epoch, attempt, train_loss, validation_accuracy, learning_rate, penalty, "
            "seconds) VALUES (%s, %s, 1, 1.0, %s, 0.1, 0.0, 0.1)",
            job_id,
            epoch,
            accuracy,
        )


@pytest.mark.parametrize(
    ("rule", "kept", "lost"),
    [
        ({"kind": "median", "min_epochs": 2, "min_jobs": 3}, (0.1, 0.5), (0.1, 0.49)),
        ({"kind": "asha", "min_epochs": 2, "reduction_factor": 4}, (0.1, 0.8), (0.9, 0.7)),
    ],
)
def test_of_two_jobs_the_one_that_loses_is_stopped(
    idle: Any, rule: dict[str, Any], kept: tuple[float, ...], lost: tuple[float, ...]
) -> None:
    spec = BASE | {"training": {"epochs": 9}}
    points = [{"training.batch_size": size} for size in (8, 16, 32, 64, 128)]
    view = submit(idle, sweep(listed(*points), spec=spec, max_concurrent=5, early_stop=rule))
    wait_for(idle, view["id"], lambda view: view["tried"] == 5)
    *finished, keeps, loses = [job["id"] for job in jobs_of(idle, view["id"])]
    for job_id, accuracies in zip(finished, [(0.2, 0.4), (0.4, 0.6), (0.6, 0.8)], strict=True):
        make_running(idle, job_id, *accuracies)
        idle.rows("UPDATE jobs SET status = 'succeeded', lease_expires_at = NULL WHERE id = %s", job_id)
    make_running(idle, keeps, *kept)
    make_running(idle, loses, *lost)

    idle.wait_for(str(loses), lambda job: job["status"] == "cancelling")
    # The worker is lost before it can obey: the reason stays.
    idle.rows("UPDATE jobs SET lease_expires_at = now() - interval '1 second' WHERE id = %s", loses)
    ended = idle.wait_for_end(str(loses))
    assert (ended["status"], ended["reason"]) == ("cancelled", "stopped_by_sweep")
    assert audited(idle, loses, "job") == ["job.submit", "job.cancel"]
    assert ended["message"].startswith("Stopped by its sweep at epoch 2: ")
    assert idle.job(str(keeps))["status"] == "running"
    assert idle.http.post(f"/sweeps/{view['id']}/cancel").status_code == 202


def test_a_list_shows_sweeps_without_their_points(idle: Any) -> None:
    rule = {"kind": "asha", "min_epochs": 2, "reduction_factor": 3}
    points = [{"training.batch_size": size, "name": "x" * 190} for size in range(1, 951)]
    body = sweep(listed(*points), name="large", objective="train_loss", max_concurrent=7, early_stop=rule)
    large, plain = submit(idle, body), submit(idle, sweep(listed({"training.epochs": 1}), direction="minimize"))
    for view in (large, plain):  # else their counts change meanwhile
        assert idle.http.post(f"/sweeps/{view['id']}/cancel").status_code == 202
        wait_for_end(idle, view["id"])
    shown = [idle.http.get(f"/sweeps/{view['id']}").json() for view in (plain, large)]
    # Nothing of the points is looked at: they could be anything.
    unreadable = """UPDATE sweeps SET request = (request::jsonb || '{"parameters": "none"}')::json WHERE id = %s"""
    for view in shown:
        idle.rows(unreadable, view["id"])
    items = idle.http.get("/sweeps", params={"limit": 100}).json()["items"]
    assert items[:2] == [{field: view[field] for field in items[0]} for view in shown]
    assert items[0]["early_stop"] is None
    assert (items[0]["direction"], items[1]["direction"]) == ("minimize", "minimize")
    assert (items[1]["objective"], items[1]["max_concurrent"], items[1]["early_stop"]) == ("train_loss", 7, rule)
    for name in ("spec", "parameters", "leaderboard"):
        assert name not in items[0]


def test_no_point_becomes_two_jobs_however_often_the_scheduler_is_killed(service: Any) -> None:
    points = [{"training.seed": seed} for seed in range(12)]
    sweep_id = submit(service, sweep(listed(*points), max_concurrent=3))["id"]
    for tried in (1, 4, 7):
        wait_for(service, sweep_id, lambda view, tried=tried: view["tried"] >= tried)  # type: ignore[misc]
        service.stack.kill_child("scheduler")
        before = service.http.get(f"/sweeps/{sweep_id}").json()["tried"]
        wait_for(service, sweep_id, lambda view: view["jobs"]["succeeded"] == view["tried"])
        assert service.http.get(f"/sweeps/{sweep_id}").json()["tried"] == before, "nobody tries points meanwhile"
        service.stack.start_child("scheduler")
    view = wait_for_end(service, sweep_id)
    assert view["jobs"]["succeeded"] == 12
    jobs = jobs_of(service, sweep_id)
    assert [job["number"] for job in jobs] == list(range(12))
    assert [job["spec"]["training"]["seed"] for job in jobs] == list(range(12))


def test_many_schedulers_at_once_make_one_job_of_each_point(idle: Any) -> None:
    sweep_id = submit(idle, sweep(listed(*[{"training.seed": seed} for seed in range(60)]), max_concurrent=50))["id"]
    schedulers = [
        Thread(target=lambda: [advance_sweeps(idle.sessions, max_queued=10_000) for _ in range(10)]) for _ in range(4)
    ]
    for scheduler in schedulers:
        scheduler.start()
    for scheduler in schedulers:
        scheduler.join()
    wait_for(idle, sweep_id, lambda view: view["tried"] == 50)
    jobs = jobs_of(idle, sweep_id)
    assert [job["spec"]["training"]["seed"] for job in jobs] == list(range(50)), "fifty wait, and no more are made"
    assert idle.http.post(f"/sweeps/{sweep_id}/cancel").json()["jobs"]["cancelled"] == 50


def grid(values: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "grid", "values": values}


def drawn(kind: str, rates: dict[str, Any], n: int = 2) -> dict[str, Any]:
    return {"kind": kind, "n": n, "ranges": {LEARNING_RATE: rates}}


GOOD = grid({LEARNING_RATE: [0.1]})
RANGE = f"parameters.ranges.{LEARNING_RATE}"
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({}, "spec", "missing"),
    ({"spec": BASE, "objective": "train_loss"}, "parameters", "missing"),
    (sweep({}), "parameters.kind", "missing"),
    (sweep({"kind": "guess"}), "parameters.kind", "literal_error"),
    (sweep(grid({})), "parameters.values", "too_short"),
    (sweep(grid({"training.seed": list(range(1_001))})), "parameters.values.training.seed", "too_long"),
    (sweep(grid({"a": [1] * 40, "b": [1] * 40})), "parameters", "too_long"),
    (sweep(grid({"training.epochs": [16, 32, 0]})), "parameters.values.training.epochs.2", "greater_than_equal"),
    (sweep(grid({"training.epoch": [1, 2]})), "parameters.values.training.epoch", "extra_forbidden"),
    (sweep(grid({"training..epochs": [1]})), "parameters.values.training..epochs", "string_pattern_mismatch"),
    (sweep(grid({"name": ["a\u0000b"]})), "parameters.values.name.0", "unprintable_text"),
    (sweep(grid({"name": ["\ud800"]})), "parameters.values.name.0", "string_unicode"),
    (sweep(grid({"a\ud800": [1]})), "parameters.values", "string_unicode"),
    (sweep(grid({"training.seed": [2**63]})), "parameters.values.training.seed.0", "less_than_equal"),
    (sweep(listed({"tags": []}, {"training.epochs": True})), "parameters.points.1.training.epochs", "int_type"),
    (sweep(listed({"training": {}, "training.epochs": 1})), "parameters.points.0", "overlap"),
    (sweep(drawn("random", {"low": 0, "high": 1})), f"{RANGE}.low", "greater_than"),
    (sweep(drawn("random", {"low": 2, "high": 1})), RANGE, "range"),
    (sweep(drawn("random", {"low": 0.1, "high": 1, "step": 1e-320})), RANGE, "range"),
    (sweep(drawn("bayesian", {"choices": []})), f"{RANGE}.choices", "too_short"),
    (sweep(drawn("bayesian", {"choices": [1]}, n=0)), "parameters.n", "greater_than_equal"),
    (sweep(GOOD, spec={"dataset": {"name": "digits"}}), "spec.network", "missing"),
    (sweep(GOOD, spec=BASE | {"name": "a\u0000b"}), "spec.name", "unprintable_text"),
    (sweep(GOOD, spec={"recipe": "../lenet"}), "spec.recipe", "unknown_recipe"),
    (sweep(GOOD, spec=[]), "spec", "dict_type"),
    (sweep(GOOD, objective="f1"), "objective", "literal_error"),
    (sweep(GOOD, spec=BASE | {"dataset": {"name": "digits", "validation": 0}}), "objective", "conflict"),
    (sweep(GOOD, max_concurrent=101), "max_concurrent", "less_than_equal"),
    (sweep(GOOD, early_stop={"kind": "asha", "min_epochs": 0}), "early_stop.min_epochs", "greater_than_equal"),
    (sweep(GOOD, objective="test_loss", early_stop={"kind": "median"}), "", "conflict"),
    (sweep(GOOD, name=""), "name", "string_too_short"),
    (sweep(GOOD, points=3), "points", "extra_forbidden"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "loc", "code"), BAD)
def test_a_bad_sweep_is_refused_with_the_place_of_what_is_wrong(
    idle: Any, body: dict[str, Any], loc: str, code: str
) -> None:
    counts = "SELECT (SELECT count(*) FROM sweeps) AS s, (SELECT count(*) FROM jobs) AS j, count(*) AS a FROM audit"
    before = idle.rows(counts)
    # Escaped, as a client may send what UTF-8 cannot carry.
    answer = idle.http.post("/sweeps", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert answer.json()["code"] == "invalid_spec"
    assert (loc, code) in {(error["loc"], error["code"]) for error in answer.json()["errors"]}, answer.text
    assert idle.rows(counts) == before


def test_sweeps_are_listed_newest_first_in_pages(idle: Any) -> None:
    ids = [submit(idle, sweep(GOOD, name=f"page {number}"))["id"] for number in range(3)]
    first = idle.http.get("/sweeps", params={"limit": 2}).json()
    assert [item["id"] for item in first["items"]] == [ids[2], ids[1]]
    assert first["next"] == ids[1]
    assert {"leaderboard", "spec"}.isdisjoint(first["items"][0])
    second = idle.http.get("/sweeps", params={"limit": 1, "after": first["next"]}).json()
    assert [item["name"] for item in second["items"]] == ["page 0"]
    for answer in (idle.http.get("/sweeps", params={"limit": 101}), idle.http.get("/sweeps", params={"after": "x"})):
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize("sweep_id", ["019377b5-0000-7000-8000-000000000000", "1", "{}", "%00"])
def test_a_sweep_that_is_not_there_is_not_found(idle: Any, sweep_id: str) -> None:
    for answer in (idle.http.get(f"/sweeps/{sweep_id}"), idle.http.post(f"/sweeps/{sweep_id}/cancel")):
        assert (answer.status_code, answer.json()["code"]) in ((404, "sweep_not_found"), (404, "not_found"))


def test_members_read_the_labs_sweeps_and_cancel_only_their_own(idle: Any) -> None:
    ada, bob = (idle.client(idle.new_user(name)) for name in ("ada", "bob"))
    answer = ada.post("/sweeps", json=sweep(GOOD))
    assert (answer.status_code, answer.json()["user"]) == (201, "ada")
    path = f"/sweeps/{answer.json()['id']}"
    assert bob.get(path).status_code == 200
    refused = bob.post(f"{path}/cancel")
    assert (refused.status_code, refused.json()["code"]) == (403, "not_yours")
    assert (
        idle.anonymous().get(path).status_code == idle.anonymous().post("/sweeps", json=sweep(GOOD)).status_code == 401
    )
    view = wait_for(idle, answer.json()["id"], lambda view: view["tried"] == 1)
    owner = "SELECT users.name FROM jobs JOIN users ON users.id = user_id WHERE sweep_id = %s"
    assert idle.rows(owner, view["id"]) == [{"name": "ada"}]
    assert ada.post(f"{path}/cancel").status_code == 202


def test_the_sweep_of_a_disabled_user_waits_until_they_are_enabled_again(idle: Any) -> None:
    client = idle.client(idle.new_user("carol"))
    sweep_id = client.post("/sweeps", json=sweep(grid({LEARNING_RATE: [0.1, 0.2]}), max_concurrent=1)).json()["id"]
    (job,) = wait_for(idle, sweep_id, lambda view: view["tried"] == 1)["leaderboard"]
    assert idle.http.patch("/users/carol", json={"disabled": True}).status_code == 200
    assert idle.http.post(f"/jobs/{job['job_id']}/cancel").status_code == 202
    time.sleep(1.5)  # several steps of the scheduler
    view = idle.http.get(f"/sweeps/{sweep_id}").json()
    assert (view["status"], view["tried"]) == ("running", 1)
    assert idle.http.patch("/users/carol", json={"disabled": False}).status_code == 200
    wait_for(idle, sweep_id, lambda view: view["tried"] == 2)
    assert idle.http.post(f"/sweeps/{sweep_id}/cancel").status_code == 202


def test_the_same_key_makes_one_sweep(idle: Any) -> None:
    headers = {"Idempotency-Key": "one-sweep"}
    first, again = (idle.http.post("/sweeps", json=sweep(GOOD), headers=headers) for _ in range(2))
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["location"] == first.headers["location"]
