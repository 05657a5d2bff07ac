"""What a change of a job's status is called, for every move that there is."""

import pytest

from api.events.schemas import EventType, type_of_move
from models.job import MOVES, Status
from models.reasons import OUT_OF_MEMORY, PREEMPTED, RUNNER_DIED, WORKER_LOST

ALL_MOVES = [(before, to) for before, targets in MOVES.items() for to in sorted(targets)]


@pytest.mark.parametrize(("before", "to"), ALL_MOVES)
def test_every_move_is_an_event_that_tells_where_the_job_went(before: Status, to: Status) -> None:
    told = type_of_move(before, to, None)
    expected = {
        Status.RUNNING: {EventType.CLAIMED, EventType.RESUMED},
        Status.QUEUED: {EventType.RESUMED, EventType.RETRIED},
        Status.PAUSING: {EventType.PAUSING},
        Status.PAUSED: {EventType.PAUSED},
        Status.CANCELLING: {EventType.CANCELLING},
        Status.SUCCEEDED: {EventType.FINISHED},
        Status.FAILED: {EventType.FINISHED},
        Status.CANCELLED: {EventType.FINISHED},
    }
    assert told in expected[to]


def test_the_first_status_is_the_submission() -> None:
    assert type_of_move(None, Status.QUEUED, None) is EventType.SUBMITTED


@pytest.mark.parametrize(
    ("reason", "told"),
    {
        WORKER_LOST: EventType.LEASE_LOST,
        PREEMPTED: EventType.PREEMPTED,
        OUT_OF_MEMORY: EventType.OUT_OF_MEMORY,
        RUNNER_DIED: EventType.RETRIED,
    }.items(),
)
@pytest.mark.parametrize("before", [Status.RUNNING, Status.PAUSING])
def test_a_job_that_lines_up_again_tells_why(before: Status, reason: str, told: EventType) -> None:
    assert type_of_move(before, Status.QUEUED, reason) is told


@pytest.mark.parametrize("before", [Status.FAILED, Status.CANCELLED])
def test_a_persons_retry_is_one_whatever_the_job_failed_of(before: Status) -> None:
    assert type_of_move(before, Status.QUEUED, WORKER_LOST) is EventType.RETRIED


def test_a_pause_taken_back_and_a_pause_ended_are_both_resumed() -> None:
    assert type_of_move(Status.PAUSING, Status.RUNNING, None) is EventType.RESUMED
    assert type_of_move(Status.PAUSED, Status.QUEUED, None) is EventType.RESUMED
