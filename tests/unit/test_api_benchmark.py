"""The API's benchmark: percentiles, its clients against a real server, its goals, and the page that is written."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from threading import Thread

import pytest

from benchmarks.api.client import Asker, connected, request, run
from benchmarks.api.followers import Polling, Streams, Waiting
from benchmarks.api.load import Load, one_by_one, under_load
from benchmarks.api.page import Figures, Measured, goals, write
from benchmarks.api.questions import BARE, COMPARISONS, MLFLOW, OURS
from benchmarks.api.recording import figures as figures_of_epoch
from benchmarks.api.setting import CLIENTS, EPOCHS, FULL, LEAST_ACCURACY, METRICS
from benchmarks.processes import MeasurementFailed
from benchmarks.tables import Goal, percentile, with_section

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
SUBMIT = COMPARISONS["submit"][0]
HELLO = request("GET", "/hello")


def empty() -> Figures:
    return Figures(FULL, "make bench-api", "2026-11-21", {"MLflow": "3"})


def submitted(ours: float, mlflow: float, bare: float) -> Figures:
    """Figures of submitting at these rates, and at a tenth of ours with eight clients."""
    figures = empty()
    for clients in CLIENTS:
        for (server, asked), rate in zip(SUBMIT.cells.items(), (ours, mlflow, bare), strict=True):
            measured = figures.answers[server, asked, clients] = Measured()
            slow = 10 if server == OURS and clients == 8 else 1
            measured.add(rate / slow, [clients / rate] * 20)
    return figures


@contextmanager
def server(*statuses: int) -> Iterator[int]:
    """A server that answers in turn with these statuses, then with the last one for ever; give its port."""
    numbers = count()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            number = next(numbers)
            body = json.dumps({"number": number, "host": self.headers["Host"]}).encode()
            self.send_response(statuses[min(number, len(statuses) - 1)])
            self.send_header("ETag", f'"{number}"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        Thread(target=http.serve_forever, daemon=True).start()
        yield http.server_port
        http.shutdown()


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert [percentile(values, percent) for percent in (1, 50, 95, 99, 100)] == [1, 50, 95, 99, 100]
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([7.0], 0) == percentile([7.0], 95) == 7.0


def test_a_request_says_how_long_its_body_is() -> None:
    assert (
        request("GET", "/jobs", {"Accept": "text/csv"})
        == b"GET /jobs HTTP/1.1\r\nHost: localhost\r\nAccept: text/csv\r\n\r\n"
    )
    head, _, body = request("POST", "/jobs", None, {"name": "ü"}).partition(b"\r\n\r\n")
    assert json.loads(body) == {"name": "ü"}
    assert f"Content-Length: {len(body)}" in head.decode().split("\r\n")


def test_clients_count_the_answers_that_they_had() -> None:
    with server(200) as port:
        found = under_load(Load(port, [HELLO]), clients=3, seconds=0.1)
    assert len(found.latencies) >= 3 * 2
    assert all(seconds > 0 for seconds in found.latencies)
    assert found.rate > 0
    assert found.failed == 0


def test_another_status_ends_a_measurement_unless_the_server_may_fail() -> None:
    with server(500, 200) as port, pytest.raises(MeasurementFailed, match="200 was expected, not 500"):
        under_load(Load(port, [HELLO]), clients=1, seconds=0.1)
    with server(500, 500, 200) as port:
        found = under_load(Load(port, [HELLO], may_fail=True), clients=1, seconds=0.1)
    assert found.failed == 2
    assert found.latencies


def test_requests_that_are_asked_once_must_all_succeed() -> None:
    with server(200) as port:
        assert one_by_one(Load(port, [HELLO] * 5)) > 0
    with server(200, 200, 503) as port, pytest.raises(MeasurementFailed, match=r"not 503: b'.*\"number\": 2"):
        one_by_one(Load(port, [HELLO] * 5))


def test_an_answer_has_its_own_body_and_tag() -> None:
    async def ask_twice(port: int) -> list[tuple[int, str | None]]:
        async with connected(port, [Asker]) as (asker,):
            answers = [await asker.ask(HELLO) for _ in range(2)]
        return [(answer.read()["number"], answer.etag) for answer in answers]

    with server(200) as port:
        assert run(ask_twice(port)) == [(0, '"0"'), (1, '"1"')]


def test_a_server_that_goes_away_is_named_as_the_reason() -> None:
    async def ask() -> None:
        async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        listening = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        async with listening, connected(port, [Asker]) as (asker,):
            await asker.ask(HELLO)

    with pytest.raises(MeasurementFailed, match="the server closed a connection"):
        run(ask())


def test_the_lowest_ratio_of_all_numbers_of_clients_is_the_one_that_counts() -> None:
    found = list(goals(submitted(ours=1_000, mlflow=100, bare=2_000)))
    assert found[0] == Goal("submit: ours / MLflow", "at least 6.00", "1.00 at 8 clients", reached=False)
    assert found[1] == Goal("submit: ours / bare", "at least 0.40", "0.05 at 8 clients", reached=False)


def test_our_slow_answers_to_many_are_held_against_the_usual_ones_of_mlflow_to_one() -> None:
    found = list(goals(submitted(ours=1_000, mlflow=10, bare=2_000)))[-1]
    what = "submit: our p95 at 32 clients / MLflow's p50 at one"
    assert found == Goal(what, "under 100.0 ms", "32.00 ms", reached=True)


def test_without_mlflow_only_the_bare_service_is_a_measure() -> None:
    figures = submitted(ours=1_000, mlflow=100, bare=2_000)
    figures.answers = {cell: measured for cell, measured in figures.answers.items() if cell[0] != MLFLOW}
    assert [goal.what for goal in goals(figures)] == ["submit: ours / bare"]
    assert "| submit | 1 | 1,000 (1,000 to 1,000) |  | 2,000 (2,000 to 2,000) |  | 0.50" in write(figures)


def test_an_epoch_that_is_late_missing_or_repeated_misses_a_goal() -> None:
    figures = empty()
    figures.streams = Streams(2, [0.01, 0.02], 2, 0, 100 * 2**20, 110 * 2**20)
    assert all(goal.reached for goal in goals(figures))
    assert "| 100 MiB, 110 MiB |" in write(figures)
    for latencies, repeated in (([0.01, 1.0], 0), ([0.01], 0), ([], 0), ([0.01, 0.02], 1)):
        figures.streams = Streams(2, latencies, 2, repeated, 0, 0)
        assert not all(goal.reached for goal in goals(figures))


def test_scripts_and_readers_have_goals_of_their_own() -> None:
    figures = empty()
    figures.polling, figures.waiting = Polling(200, 0.2, 4_000, 800), Waiting(100, 16, 0, [0.05])
    assert all(goal.reached for goal in goals(figures))
    figures.polling, figures.waiting = Polling(200, 0.25, 4_000, 800), Waiting(100, 17, 1, [0.05])
    assert [goal.reached for goal in goals(figures)] == [False, False, False]


def test_recording_is_compared_in_the_seconds_of_all_epochs() -> None:
    figures = empty()
    figures.recording = {OURS: [1.0, 1.0], MLFLOW: [6.0, 4.0], BARE: [0.5, 0.5]}
    assert list(goals(figures)) == [Goal("record an epoch: ours / MLflow", "at least 5.00", "5.00", reached=True)]
    assert f"| bare | {EPOCHS / 0.5:,.0f} (600 to 600) | 0.50 (0.50 to 0.50) |" in write(figures)


def test_errors_that_a_server_may_make_are_told() -> None:
    figures = submitted(ours=1_000, mlflow=100, bare=2_000)
    assert "were errors" not in write(figures)
    figures.failed = {OURS: 0, MLFLOW: 3}
    assert "3 answers of MLflow were errors" in write(figures)


def test_half_of_the_jobs_pass_the_filter_of_the_list() -> None:
    assert max(figures_of_epoch(epoch)["validation_accuracy"] for epoch in range(1, EPOCHS + 1)) > LEAST_ACCURACY
    poor = [figures_of_epoch(epoch, good=False) for epoch in range(1, EPOCHS + 1)]
    assert max(values["validation_accuracy"] for values in poor) < LEAST_ACCURACY
    assert all(values[name] > 0 for values in poor for name in METRICS)


def test_the_page_has_a_place_for_the_api() -> None:
    assert with_section(PAGE.read_text(), "api", "found").count("\n\nfound\n\n") == 1
