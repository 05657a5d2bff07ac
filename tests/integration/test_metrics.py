"""The curves of a job over HTTP: chosen, thinned, in three formats, not sent twice; and the scores kept beside them."""

import csv
import gzip
import io
import json
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from alembic import command

from api.jobs.schemas import EpochView
from api.metrics.queries import NAMES
from api.metrics.schemas import MetricsView
from harness.jobs import DIGITS_MLP
from migrations import config
from models.demand import Demand
from models.result import EpochMetrics
from models.scores import METRICS
from worker.attempt import AttemptRecord
from worker.messages import SavedCheckpoint
from worker.queue import Claim

FIGURES = {"mean": 0.5, "standard_deviation": 0.1, "values": [0.4, 0.6]}
REPLICAS = dict.fromkeys(("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "penalty"), FIGURES)

Curves = Sequence[dict[str, Any]]


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    """A stack whose jobs run only where a test lets them."""
    return start_service(workers=0)


class Running:
    """A job that this test runs: what is recorded goes the way of a worker's epochs."""

    def __init__(self, service: Any, **spec: Any) -> None:
        self.id: str = service.submit(DIGITS_MLP | spec)
        service.rows("UPDATE jobs SET status = 'running', attempt = 1 WHERE id = %s", self.id)
        claim = Claim(
            job_id=UUID(self.id),
            attempt=1,
            spec={},
            demand=Demand("cpu", 0, None, exclusive=False),
            gpus=(),
            estimated_seconds=None,
            seconds_used=0,
            checkpoints=[],
        )
        self._record = AttemptRecord(service.sessions, claim)
        self.path = f"/jobs/{self.id}/metrics"

    def record(self, epoch: int, **figures: Any) -> None:
        values: dict[str, Any] = {
            "train_loss": 1.0,
            "train_accuracy": 0.5,
            "validation_loss": 1.5,
            "validation_accuracy": 0.25,
            "learning_rate": 0.01,
            "seconds": 0.125,
        }
        metrics = EpochMetrics(epoch=epoch, penalty=0.0, train_seconds=0.1, **values | figures)
        self._record.add_epoch(metrics, SavedCheckpoint(attempt=1, epoch=epoch, file="c.pt", sha256="0" * 64))

    def fail(self) -> None:
        self._record.fail("made_to_fail", "A test ends it.", retry_limit=3)


@pytest.fixture
def running(service: Any) -> Callable[..., Running]:
    return lambda **spec: Running(service, **spec)


@pytest.fixture(scope="module")
def recorded(service: Any) -> Running:
    """A running job with 300 epochs of noise and one peak."""
    job = Running(service)
    noise = random.Random(7)
    for epoch in range(1, 301):
        job.record(epoch, **{name: noise.random() for name in METRICS} | {"seconds": 1e-7})
    job.record(137, train_loss=40.0)
    return job


def scores(service: Any, job_id: str) -> dict[str, Any]:
    row: dict[str, Any] = service.rows("SELECT * FROM scores WHERE job_id = %s", job_id)[0]
    return row


def best_by_hand(epochs: Curves) -> dict[str, Any] | None:
    trained = [epoch for epoch in epochs if epoch["epoch"] > 0]
    return max(trained, key=lambda epoch: (epoch["validation_accuracy"], -epoch["epoch"]), default=None)


def test_the_text_from_the_database_is_what_the_schema_says(service: Any, running: Callable[..., Running]) -> None:
    job = running(training={"replicas": 2})
    job.record(0, train_accuracy=None, validation_loss=None, validation_accuracy=None)
    job.record(1, train_loss=1e-300, seconds=1e22, learning_rate=1 / 3, replicas=REPLICAS)
    text = service.http.get(job.path).text
    assert list(json.loads(text)) == list(MetricsView.model_fields)
    first, second = json.loads(text)["epochs"]
    assert list(second) == list(EpochView.model_fields) == ["epoch", *NAMES]
    assert list(first) == ["epoch", *METRICS], "what is of replicas stands only where there are any"
    view = MetricsView.model_validate_json(text, strict=True)
    assert json.loads(view.model_dump_json())["epochs"][1] == second | {"train_loss": 1e-300}
    assert (second["train_loss"], second["seconds"], second["learning_rate"]) == (1e-300, 1e22, 1 / 3)
    assert second["replicas"] == REPLICAS
    assert (first["validation_accuracy"], view.next, view.notes) == (None, 1, [])


def test_only_the_metrics_asked_for_are_sent(service: Any, recorded: Running) -> None:
    everything = service.http.get(recorded.path).json()
    answer = service.http.get(recorded.path, params={"names": "validation_accuracy,train_loss"}).json()
    names = ("epoch", "train_loss", "validation_accuracy")
    assert answer["epochs"] == [{name: epoch[name] for name in names} for epoch in everything["epochs"]]
    assert (answer["next"], len(answer["epochs"])) == (300, 300)


@pytest.mark.parametrize("max_points", [2, 14, 50, 299, 300, 10_000])
def test_thinned_curves_are_bounded_and_lose_no_peak(service: Any, recorded: Running, max_points: int) -> None:
    everything = service.http.get(recorded.path).json()["epochs"]
    answer = service.http.get(recorded.path, params={"max_points": max_points}).json()
    thinned = answer["epochs"]
    assert len(thinned) <= max(max_points, 14)
    places = [epoch["epoch"] for epoch in thinned]
    assert places == sorted(places)
    assert (places[0], places[-1], answer["next"]) == (1, 300, 300)
    assert all(epoch in everything for epoch in thinned)
    for name in METRICS:
        for extreme in (min, max):
            assert extreme(epoch[name] for epoch in thinned) == extreme(epoch[name] for epoch in everything)
    assert 137 in places, "the peak"


def test_thinning_one_metric_of_the_newest_epochs_needs_few_points(service: Any, recorded: Running) -> None:
    answer = service.http.get(recorded.path, params={"max_points": 4, "names": "train_loss", "after": 100}).json()
    assert len(answer["epochs"]) == 4
    assert {101, 137, 300} <= {epoch["epoch"] for epoch in answer["epochs"]}


def test_the_formats_hold_the_same_numbers(service: Any, recorded: Running) -> None:
    as_json = service.http.get(recorded.path).json()["epochs"]
    lines = service.http.get(recorded.path, headers={"Accept": "application/x-ndjson"})
    assert lines.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in lines.text.splitlines()] == as_json
    table = service.http.get(recorded.path, headers={"Accept": "text/csv"})
    assert table.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert list(rows[0]) == ["epoch", *METRICS]
    assert [{name: float(value) for name, value in row.items()} for row in rows] == as_json
    assert (table.headers["trainyard-next"], table.headers["trainyard-status"]) == ("300", "running")


def test_a_cell_without_a_value_is_empty(service: Any, running: Callable[..., Running]) -> None:
    job = running()
    job.record(1, validation_loss=None, validation_accuracy=None)
    table = service.http.get(job.path, headers={"Accept": "text/csv"}).text
    assert table.splitlines()[1] == "1,1,0.5,,,0.01,0.125"


def test_no_epochs_are_an_empty_body_in_each_format(service: Any, running: Callable[..., Running]) -> None:
    job = running()
    assert service.http.get(job.path).json()["epochs"] == []
    assert service.http.get(job.path, params={"max_points": 10}).json()["epochs"] == []
    assert service.http.get(job.path, headers={"Accept": "application/x-ndjson"}).text == ""
    table = service.http.get(job.path, headers={"Accept": "text/csv"}).text
    assert table == ",".join(["epoch", *METRICS]) + "\r\n"


@pytest.mark.parametrize(
    ("accept", "status", "media_type"),
    [
        ("*/*", 200, "application/json"),
        ("text/csv;q=0.5, application/x-ndjson", 200, "application/x-ndjson"),
        ("text/*", 200, "text/csv"),
        ("application/*;q=0.1, text/csv;q=0.2", 200, "text/csv"),
        ("text/html, application/xhtml+xml, */*;q=0.8", 200, "application/json"),
        ("application/json;q=0, */*", 200, "application/x-ndjson"),
        ("image/png", 406, "application/problem+json"),
        ("application/json;q=0", 406, "application/problem+json"),
    ],
)
def test_the_format_is_the_one_that_accept_prefers(
    service: Any, recorded: Running, accept: str, status: int, media_type: str
) -> None:
    answer = service.http.get(recorded.path, headers={"Accept": accept})
    assert answer.status_code == status
    assert answer.headers["content-type"].partition(";")[0] == media_type
    if status == 406:
        assert answer.json()["code"] == "not_acceptable"


def test_a_long_answer_is_compressed_for_who_takes_it_and_a_short_one_is_not(service: Any, recorded: Running) -> None:
    def raw(encodings: str, **params: Any) -> tuple[bytes, Any]:
        with service.http.stream("GET", recorded.path, params=params, headers={"Accept-Encoding": encodings}) as answer:
            return b"".join(answer.iter_raw()), answer.headers

    plain, _ = raw("identity")
    packed, headers = raw("br, gzip;q=0.5")
    assert headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed) == plain
    assert len(packed) < len(plain) / 2
    assert {"Accept", "Accept-Encoding"} <= set(headers["vary"].split(", "))
    for encodings, params in (("gzip", {"after": 298}), ("gzip;q=0", {}), ("", {})):
        content, headers = raw(encodings, **params)
        assert "content-encoding" not in headers
        assert json.loads(content)


def test_each_representation_has_a_tag_of_its_own(service: Any, recorded: Running) -> None:
    ways: list[dict[str, Any]] = [
        {},
        {"headers": {"Accept": "text/csv"}},
        {"headers": {"Accept": "application/x-ndjson"}},
        {"headers": {"Accept-Encoding": "identity"}},
        {"params": {"names": "seconds"}},
        {"params": {"after": 1}},
        {"params": {"max_points": 20}},
    ]
    tags = [service.http.get(recorded.path, **way).headers["etag"] for way in ways]
    assert len(set(tags)) == len(ways)
    for way, tag in zip(ways, tags, strict=True):
        asked = way | {"headers": way.get("headers", {}) | {"If-None-Match": tag}}
        unchanged = service.http.get(recorded.path, **asked)
        assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", tag)


def test_a_tag_no_longer_matches_once_anything_that_it_stands_for_has_changed(
    service: Any, running: Callable[..., Running]
) -> None:
    job = running()
    seen = set()

    def tag() -> str:
        before: str = service.http.get(job.path).headers["etag"]
        assert service.http.get(job.path, headers={"If-None-Match": before}).status_code == 304
        return before

    seen.add(tag())
    job.record(1)
    seen.add(tag())
    job.record(1, train_loss=2.0)  # again, after a resume
    assert service.http.get(job.path).json()["epochs"][0]["train_loss"] == 2.0
    seen.add(tag())
    service.http.post(f"/jobs/{job.id}/cancel")
    seen.add(tag())
    job.fail()
    seen.add(tag())
    assert len(seen) == 5
    assert service.http.get(job.path).json()["terminal"] is True


def test_an_ended_job_is_answered_from_memory_and_still_only_to_who_may_read_it(
    service: Any, running: Callable[..., Running]
) -> None:
    job = running()
    job.record(1)
    job.fail()
    first = service.http.get(job.path)
    service.rows("UPDATE epochs SET train_loss = 99 WHERE job_id = %s", job.id)
    again = service.http.get(job.path)
    service.rows("UPDATE epochs SET train_loss = 1 WHERE job_id = %s", job.id)
    assert (again.content, again.headers["etag"]) == (first.content, first.headers["etag"]), "not asked again"
    assert service.anonymous().get(job.path).status_code == 401
    stranger_token = service.new_user("stranger")
    with (
        service.another_api(jobs_visible="own") as api,
        api.client(service.stack.admin_token) as owner,
        api.client(stranger_token) as stranger,
    ):
        for headers, status in (({}, 200), ({"If-None-Match": first.headers["etag"]}, 304)):
            assert owner.get(job.path, headers=headers).status_code == status
            hidden = stranger.get(job.path, headers=headers)
            assert (hidden.status_code, hidden.json()["code"]) == (404, "job_not_found")


def test_thinning_leaves_no_note_out(service: Any, running: Callable[..., Running]) -> None:
    job = running()
    for epoch in range(1, 41):
        job.record(epoch, train_loss=float("nan") if epoch in (5, 6) else 1.0 / epoch)
    view = service.http.get(job.path, params={"max_points": 14}).json()
    assert not {5, 6} & {epoch["epoch"] for epoch in view["epochs"]}
    assert view["notes"] == [{"metric": "train_loss", "value": "NaN", "epochs": 2, "first": 5, "last": 6}]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_null_with_a_note_in_each_format(
    service: Any, running: Callable[..., Running], value: float
) -> None:
    job = running(training={"replicas": 2})
    job.record(1)
    job.record(2, validation_loss=value, replicas=REPLICAS)
    job.record(3, validation_loss=value)
    note = {"metric": "validation_loss", "value": json.dumps(value), "epochs": 2, "first": 2, "last": 3}
    answer = service.http.get(job.path)
    view = json.loads(answer.text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert [epoch["validation_loss"] for epoch in view["epochs"]] == [1.5, None, None]
    assert view["epochs"][1]["replicas"] == REPLICAS
    assert view["notes"] == [note] == [note.model_dump() for note in MetricsView.model_validate(view).notes]
    for accept in ("text/csv", "application/x-ndjson"):
        answer = service.http.get(job.path, headers={"Accept": accept})
        assert "NaN" not in answer.text
        assert "Infinity" not in answer.text
        assert json.loads(answer.headers["trainyard-notes"]) == [note]
    view = service.http.get(f"/jobs/{job.id}").json()
    assert (view["last"]["validation_loss"], view["last"]["epoch"]) == (None, 3)
    assert scores(service, job.id)["last_validation_loss"] is None
    thinned = service.http.get(job.path, params={"max_points": 2, "names": "validation_loss"}).json()
    assert thinned["epochs"][0] == {"epoch": 1, "validation_loss": 1.5}


@pytest.mark.parametrize(
    ("query", "loc", "code"),
    [
        ("names=train_loss,nothing", "names", "unknown_metric"),
        ("names=", "names", "unknown_metric"),
        ("names=penalty", "names", "unknown_metric"),
        ("names=%00", "names", "unknown_metric"),
        (f"names={'seconds,' * 100}seconds", "names", "too_long"),
        ("max_points=1", "max_points", "greater_than_equal"),
        ("max_points=10001", "max_points", "less_than_equal"),
        ("max_points=2.5", "max_points", "int_parsing"),
        ("max_point=2", "max_point", "unknown_parameter"),
    ],
)
def test_a_bad_question_is_refused_at_its_parameter(
    service: Any, recorded: Running, query: str, loc: str, code: str
) -> None:
    answer = service.http.get(f"{recorded.path}?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert [(error["loc"], error["code"]) for error in answer.json()["errors"]] == [(loc, code)]


def _revoke(admin: Any, _name: str, token: str) -> Any:
    return admin.delete(f"/tokens/{token.split('_')[1]}")


def _disable(admin: Any, name: str, _token: str) -> Any:
    return admin.patch(f"/users/{name}", json={"disabled": True})


def _demote(admin: Any, name: str, _token: str) -> Any:
    return admin.patch(f"/users/{name}", json={"role": "member"})


@pytest.mark.parametrize(
    ("lose_right", "status", "code"),
    [(_revoke, 401, "unauthenticated"), (_disable, 401, "unauthenticated"), (_demote, 404, "job_not_found")],
)
def test_a_reader_that_waits_is_refused_as_soon_as_the_right_to_read_is_gone(
    service: Any, running: Callable[..., Running], lose_right: Callable[..., Any], status: int, code: str
) -> None:
    job, name = running(), f"waiting{lose_right.__name__}".replace("_", "-")
    token = service.new_user(name, role="admin")
    with service.another_api(jobs_visible="own") as api, api.client(token) as client, ThreadPoolExecutor(1) as other:
        waiting = other.submit(client.get, job.path, params={"after": 0, "wait": 30})
        time.sleep(0.5)  # the request is on its way
        assert lose_right(service.http, name, token).is_success
        answer = waiting.result(timeout=20)  # nothing has happened to the job
        assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_reader_whose_token_is_revoked_sees_no_epoch_that_comes_later(
    service: Any, running: Callable[..., Running]
) -> None:
    job, token = running(), service.new_user("revoked")
    with service.another_api() as api, api.client(token) as client, ThreadPoolExecutor(1) as other:
        waiting = other.submit(client.get, job.path, params={"after": 0, "wait": 30})
        time.sleep(0.5)  # the request is on its way
        os.kill(api.pid, signal.SIGSTOP)  # it will hear of both at once
        assert _revoke(service.http, "revoked", token).is_success
        job.record(1)
        os.kill(api.pid, signal.SIGCONT)
        answer = waiting.result()
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


def test_a_reader_that_waits_gets_only_the_metrics_and_the_format_that_it_wants(
    service: Any, running: Callable[..., Running]
) -> None:
    job = running()
    job.record(1)
    answer = service.http.get(
        job.path, params={"after": 0, "wait": 20, "names": "seconds"}, headers={"Accept": "text/csv"}
    )
    assert answer.text == "epoch,seconds\r\n1,0.125\r\n"


def test_the_scores_are_those_of_the_epochs_whatever_is_recorded_in_which_order(
    service: Any, running: Callable[..., Running]
) -> None:
    chance = random.Random(3)
    for _ in range(12):
        job = running()
        for recordings in range(1, 26):
            # Anew from an earlier epoch, as after a resume, or on; few values, so that some are equal.
            job.record(chance.randint(0, 6), validation_accuracy=chance.choice([0.1, 0.2, 0.3]), train_loss=recordings)
            epochs = service.rows("SELECT * FROM epochs WHERE job_id = %s ORDER BY epoch", job.id)
            best, row = best_by_hand(epochs), scores(service, job.id)
            for which, expected in (("last", epochs[-1]), ("best", best)):
                for figure in ("epoch", *METRICS):
                    assert row[f"{which}_{figure}"] == (expected[figure] if expected else None), (which, figure)
            assert row["revision"] == recordings
    view = service.http.get(f"/jobs/{job.id}").json()
    assert best is not None
    assert view["best"] == {figure: best[figure] for figure in ("epoch", *METRICS)}
    assert view["progress"]["epoch"] == epochs[-1]["epoch"]


@pytest.mark.parametrize(
    ("curves", "best"),
    [
        ([{"validation_accuracy": None, "train_accuracy": a} for a in (0.1, 0.3, 0.3)], 2),
        ([{"validation_accuracy": None, "train_accuracy": None, "validation_loss": v} for v in (3.0, 1.0, 1.0)], 2),
        (
            [
                {"validation_accuracy": None, "train_accuracy": None, "validation_loss": None, "train_loss": t}
                for t in (3.0, 1.0, 2.0)
            ],
            2,
        ),
        (
            [
                {"validation_accuracy": None, "train_accuracy": None, "validation_loss": v}
                for v in (float("nan"), float("inf"), 5.0)
            ],
            3,
        ),
        ([{"validation_accuracy": float("nan")}, {"validation_accuracy": float("nan")}], 1),
    ],
)
def test_the_best_epoch_is_that_of_the_rule(
    service: Any, running: Callable[..., Running], curves: Curves, best: int
) -> None:
    job = running()
    for epoch, figures in enumerate(curves, start=1):
        job.record(epoch, **figures)
    assert service.http.get(f"/jobs/{job.id}").json()["best"]["epoch"] == best


def test_jobs_of_before_are_scored_when_the_database_is_migrated(
    service: Any, recorded: Running, running: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_accuracy = {"train_accuracy": None, "validation_accuracy": None}
    jobs: list[list[tuple[int, dict[str, Any]]]] = [
        [],
        [(0, {})],
        [(1, {"validation_accuracy": 0.2}), (2, {"validation_accuracy": 0.9}), (3, {"validation_accuracy": 0.9})],
        [(1, without_accuracy | {"validation_loss": float("nan")}), (2, without_accuracy | {"validation_loss": 3.0})],
        [(1, {"validation_accuracy": None, "validation_loss": None}), (2, {"train_loss": float("inf")})],
    ]
    for curves in jobs:
        job = running()
        for epoch, figures in curves:
            job.record(epoch, **figures)
    service.rows(
        "INSERT INTO results (job_id, attempt, body, essentials) VALUES"
        """ (%s, 1, '{"accuracy": {"test": 0.75}, "loss": {"test": 0.5}}', '{}')""",
        job.id,
    )
    service.rows("UPDATE scores SET test_accuracy = 0.75, test_loss = 0.5 WHERE job_id = %s", job.id)
    everything = "SELECT * FROM scores ORDER BY job_id"
    before = service.rows(everything)
    monkeypatch.setenv("DATABASE_URL", service.stack.database_url)
    command.downgrade(config(), "c5a1f0d37e11")
    command.upgrade(config(), "head")
    after = service.rows(everything)
    assert [row | {"revision": None} for row in after] == [row | {"revision": None} for row in before]
    assert all(row["revision"] > 0 for row in after)
