"""What must be true of a stack and its jobs once the dust has settled, whatever fault there was."""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise, takewhile
from types import MappingProxyType
from typing import Any

from harness.figures import Figures, figures_of
from harness.leaks import require_nothing_leaked
from harness.service import FINAL, Service
from harness.waiting import Stalls, longest_wait
from models.job import MOVES, Status

MOST_WAITING_SECONDS = 10.0  # of a job beside a free slot


def require_invariants(
    service: Service,
    job_ids: Sequence[str],
    *,
    undisturbed: Figures | None = None,
    healed_at: datetime | None = None,
    stalls: Stalls = MappingProxyType({}),
) -> None:
    """Hold every invariant against jobs that have ended, and against the stack that they ran on; no job runs any more.

    `undisturbed` are the figures that each of them that succeeded came to. Waiting beside a free slot counts from
    `healed_at` (the database's time), where a worker was there and could not claim before, and from the end of each
    of its `stalls`.
    """
    for job_id in job_ids:
        _require_one_end(service, job_id)
        _require_attempts_in_turn(service, job_id)
        _require_whole_epochs(service, job_id)
        _require_log_in_turn(service, job_id)
        _require_recorded_files(service, job_id)
        if undisturbed is not None and service.job_row(job_id)["status"] == Status.SUCCEEDED:
            found = figures_of(service, job_id)
            assert found.epochs == undisturbed.epochs, "an epoch has other figures than undisturbed"
            assert found == undisturbed, "weights, result or predictions differ from the undisturbed ones"
    waited = longest_wait(service, job_ids, healed_at, stalls)
    assert waited <= MOST_WAITING_SECONDS, f"a job waited {waited:.1f} s beside a free slot"
    assert service.wrong_answers == []
    require_nothing_leaked(service)


def _require_one_end(service: Service, job_id: str) -> None:
    status = service.job_row(job_id)["status"]
    moves = service.rows("SELECT from_status, to_status FROM transitions WHERE job_id = %s ORDER BY id", job_id)
    path = [move["to_status"] for move in moves]
    assert path[-1] == status, f"{job_id} is {status}, and its last move led to {path[-1]}"
    assert status in FINAL, f"{job_id} is {status} still"
    assert not FINAL.intersection(path[:-1]), f"{job_id} ended more than once: {path}"
    assert [move["from_status"] for move in moves[1:]] == path[:-1], f"a move of {job_id} began elsewhere: {moves}"
    for before, after in pairwise(path):
        assert Status(after) in MOVES[Status(before)], f"{job_id} went from {before} to {after}"


def _require_attempts_in_turn(service: Service, job_id: str) -> None:
    attempts = service.rows("SELECT * FROM attempts WHERE job_id = %s ORDER BY number", job_id)
    assert [attempt["number"] for attempt in attempts] == list(range(1, len(attempts) + 1))
    for attempt in attempts:
        assert attempt["ended_at"] is not None, f"attempt {attempt['number']} of {job_id} was never closed"
        assert attempt["outcome"], f"attempt {attempt['number']} of {job_id} has no outcome"
        assert attempt["started_at"] <= attempt["ended_at"]
    for earlier, later in pairwise(attempts):
        assert earlier["ended_at"] <= later["started_at"], f"attempts of {job_id} overlap: {earlier}, {later}"


def _require_whole_epochs(service: Service, job_id: str) -> None:
    job = service.job_row(job_id)
    rows = service.rows("SELECT epoch, attempt FROM epochs WHERE job_id = %s ORDER BY epoch", job_id)
    first = 0 if job["spec"]["training"].get("evaluate_before_training") else 1
    numbers = [row["epoch"] for row in rows]
    assert numbers == list(range(first, first + len(rows))), f"the epochs of {job_id} have a gap: {numbers}"
    fences = [row["attempt"] for row in rows]
    assert fences == sorted(fences), f"an earlier attempt of {job_id} wrote after a later one: {rows}"
    succeeded = job["status"] == Status.SUCCEEDED
    if succeeded and job["spec"]["training"].get("early_stopping") is None:
        assert numbers[-1] == job["epochs"], f"{job_id} succeeded after epoch {numbers[-1]}"
    results = service.rows("SELECT attempt FROM results WHERE job_id = %s", job_id)
    assert results == ([{"attempt": job["attempt"]}] if succeeded else []), f"results of {job_id}: {results}"


def _require_log_in_turn(service: Service, job_id: str) -> None:
    pieces = service.rows("SELECT attempt FROM log_chunks WHERE job_id = %s ORDER BY id", job_id)
    attempts = [piece["attempt"] for piece in pieces]
    assert attempts == sorted(attempts), f"an earlier attempt of {job_id} was heard after a later one: {attempts}"


def _require_recorded_files(service: Service, job_id: str) -> None:
    """Check the checkpoints: the newest is whole, and nothing is left of what was never recorded.

    An attempt that lost its worker leaves what it had no time to record, and the next one removes that. So only of the
    lost attempts at the end can something be left, until retention removes it.
    """
    rows = service.rows(
        "SELECT checkpoint, checkpoint_sha256 AS sha256 FROM epochs WHERE job_id = %s ORDER BY epoch DESC", job_id
    )
    recorded: dict[str, Any] = {row["checkpoint"]: row["sha256"] for row in rows}
    folder = service.stack.artifacts / job_id
    for newest in list(recorded)[:1]:
        assert hashlib.sha256((folder / newest).read_bytes()).hexdigest() == recorded[newest], f"{newest} is damaged"
    ends = service.rows("SELECT number, outcome FROM attempts WHERE job_id = %s ORDER BY number DESC", job_id)
    lost = {end["number"] for end in takewhile(lambda end: end["outcome"] == "worker_lost", ends)}
    left = {file.name for file in folder.glob("checkpoint-*") if int(file.name.split("-")[1]) not in lost}
    assert left <= set(recorded), f"files of {job_id} that no attempt recorded: {left - set(recorded)}"
