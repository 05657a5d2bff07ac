"""Claims, leases and the fence, on a real Postgres: what a worker may write, and when it no longer may."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, create_engine, func, select, update
from sqlalchemy.exc import DataError, InternalError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from harness.jobs import (
    CHECKPOINT,
    DIGITS_MLP,
    ON_CPU,
    add_job,
    claim,
    claimed,
    first_gpus,
    job_row,
    supervisor_of,
    trained,
)
from harness.service import Service
from models.database import sync_engine, sync_sessions
from models.demand import GIB
from models.job import Job, Status, notification
from models.line import Offer
from models.records import Attempt, Epoch, JobResult, LogChunk, Transition
from models.scores import Scores
from models.settings import Settings
from models.share import Share
from models.user import User
from worker.attempt import LOG_LIMIT, AttemptRecord, AttemptSuperseded
from worker.leases import expire_leases
from worker.messages import Phase
from worker.queue import claim_next
from worker.settings import WorkerSettings

ON_ONE_GPU = Offer(
    ["default"], free_slots=1, has_gpus=True, idle_gpu_bytes=[GIB], shared_gpu_bytes=GIB, gpus={"GPU-a": GIB}
)


@pytest.fixture(scope="module")
def engine(own_database: Service) -> Iterator[Engine]:
    # A claim or a reaper that waits for a locked row fails here, where it would hang.
    engine = create_engine(own_database.stack.database_url, connect_args={"options": "-c lock_timeout=2000"})
    yield engine
    engine.dispose()


def submit(sessions: sessionmaker[Session], **changes: Any) -> UUID:
    with sessions.begin() as session:
        return add_job(session, DIGITS_MLP | changes).id


def run_out(sessions: sessionmaker[Session], job_id: UUID) -> None:
    """Let the lease end, by the database's clock."""
    with sessions.begin() as session:
        session.execute(update(Job).where(Job.id == job_id).values(lease_expires_at=func.now() - func.make_interval()))


def expire(sessions: sessionmaker[Session]) -> list[Any]:
    with sessions.begin() as session:
        return list(expire_leases(session, retry_limit=3, lease_seconds=0))


def count(sessions: sessionmaker[Session], table: Any) -> int:
    with sessions() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_jobs_are_claimed_in_the_order_of_their_submission(sessions: sessionmaker[Session]) -> None:
    ids = [submit(sessions) for _ in range(3)]
    assert [claimed(sessions).job_id for _ in range(3)] == ids
    assert claim(sessions) is None


def test_a_claim_opens_the_next_attempt_under_a_lease_and_keeps_the_move(sessions: sessionmaker[Session]) -> None:
    job_id = submit(sessions)
    for number in (1, 2):
        assert claimed(sessions).attempt == number
        job = job_row(sessions, job_id)
        assert (job.status, job.reason, job.message) == ("running", None, "Runs on a.")
        assert job.lease_expires_at is not None
        with sessions() as session:
            attempt = session.get_one(Attempt, (job_id, number))
            assert (attempt.worker, attempt.gpus, attempt.ended_at) == ("a", [], None)
            last = session.scalars(select(Transition).order_by(Transition.id.desc()).limit(1)).one()
        assert (last.from_status, last.to_status, last.attempt) == ("queued", "running", number)
        assert (last.reason, last.message) == (None, "Runs on a.")
        assert last.at >= attempt.started_at
        run_out(sessions, job_id)
        assert expire(sessions) == [job_id]


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.QUEUED])
def test_a_job_that_is_not_queued_is_not_claimed(sessions: sessionmaker[Session], status: Status) -> None:
    job_id = submit(sessions)
    with sessions.begin() as session:
        session.execute(update(Job).values(status=status))
    assert claim(sessions) is None
    assert (job_row(sessions, job_id).attempt, count(sessions, Attempt)) == (0, 0)


def test_a_job_for_a_gpu_waits_for_a_worker_that_has_one(sessions: sessionmaker[Session]) -> None:
    job_id = submit(sessions, resources={"device": "cuda"})
    assert claim(sessions) is None
    found = claim(sessions, ON_ONE_GPU)
    assert found is not None
    assert (found.job_id, found.gpus) == (job_id, ("GPU-a",))
    with sessions() as session:
        assert session.scalars(select(Attempt.gpus)).all() == [["GPU-a"]]


def test_a_job_that_somebody_is_changing_is_passed_over(sessions: sessionmaker[Session]) -> None:
    first, second = submit(sessions), submit(sessions)
    with sessions.begin() as session:
        session.get_one(Job, first, with_for_update=True)
        assert claimed(sessions).job_id == second
        assert claim(sessions) is None
    assert claimed(sessions).job_id == first


def test_a_job_that_ended_since_the_line_was_read_is_not_claimed(sessions: sessionmaker[Session]) -> None:
    job_id = submit(sessions)

    def end_meanwhile(*_: object) -> tuple[str, ...]:
        with sessions.begin() as other:
            other.get_one(Job, job_id, with_for_update=True).cancel()
        return ()

    with sessions.begin() as session:
        assert claim_next(session, worker="a", offer=ON_CPU, allocate=end_meanwhile, lease_seconds=30) is None
    assert (job_row(sessions, job_id).status, count(sessions, Attempt)) == ("cancelled", 0)


def test_a_claim_waits_for_one_that_is_not_committed(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        somebody_else = User(name="somebody-else")  # the row of a user's share is no reason to wait
        session.add(somebody_else)
        session.flush()
        add_job(session)
        add_job(session, user=somebody_else.id)
    with sessions.begin() as session:
        claim_next(session, worker="a", offer=ON_CPU, allocate=first_gpus(ON_CPU), lease_seconds=30)
        with pytest.raises(OperationalError, match="lock timeout"):
            claim(sessions, worker="b")
    assert claim(sessions, worker="b") is not None


def test_many_claims_at_once_share_the_jobs_without_overlap(sessions: sessionmaker[Session]) -> None:
    ids = {submit(sessions) for _ in range(20)}
    found: list[Any] = []

    def take() -> None:
        while (mine := claim(sessions)) is not None:
            found.append(mine.job_id)

    threads = [threading.Thread(target=take) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    assert set(found) == ids


def test_a_renewed_lease_is_not_expired_and_one_that_ran_out_is(sessions: sessionmaker[Session]) -> None:
    job_id = submit(sessions)
    record = AttemptRecord(sessions, claimed(sessions))
    run_out(sessions, job_id)
    record.renew(30)
    assert expire(sessions) == []
    run_out(sessions, job_id)
    assert expire(sessions) == [job_id]
    row = job_row(sessions, job_id)
    assert (row.status, row.reason, row.retries, row.lease_expires_at) == ("queued", "worker_lost", 1, None)


def test_the_time_after_a_lost_lease_is_nobodys(sessions: sessionmaker[Session]) -> None:
    job_id = submit(sessions)
    claimed(sessions)
    with sessions.begin() as session:  # the worker went an hour ago, and nobody was there to see it
        an_hour, half = func.make_interval(0, 0, 0, 0, 1), func.make_interval(0, 0, 0, 0, 0, 30)
        session.execute(update(Attempt).values(started_at=func.now() - an_hour))
        session.execute(update(Job).values(lease_expires_at=func.now() - half))
    assert expire(sessions) == [job_id]
    with sessions() as session:
        attempt = session.get_one(Attempt, (job_id, 1))
        assert attempt.ended_at is not None
        assert (attempt.ended_at - attempt.started_at).total_seconds() == pytest.approx(1_800, abs=5)
        assert session.scalars(select(Share.cpu_seconds)).one() == pytest.approx(1_800, abs=10)
    assert claimed(sessions).seconds_used == pytest.approx(1_800, abs=5)


def test_a_lease_that_is_being_renewed_is_passed_over_by_the_reaper(sessions: sessionmaker[Session]) -> None:
    job_id = submit(sessions)
    claimed(sessions)
    run_out(sessions, job_id)
    with sessions.begin() as session:
        session.execute(
            update(Job).where(Job.id == job_id).values(lease_expires_at=func.now() + func.make_interval(0, 0, 0, 1))
        )
        assert expire(sessions) == []
    assert job_row(sessions, job_id).status == Status.RUNNING


def test_whatever_an_attempt_writes_after_its_lease_is_refused(sessions: sessionmaker[Session]) -> None:
    job_id = submit(sessions)
    zombie = AttemptRecord(sessions, claimed(sessions))
    run_out(sessions, job_id)
    expire(sessions)
    assert claimed(sessions).attempt == 2
    moves = count(sessions, Transition)
    writes: list[Callable[[], object]] = [
        lambda: zombie.renew(30),
        zombie.request,
        lambda: zombie.say("still here"),
        lambda: zombie.add_epoch(trained(), CHECKPOINT),
        lambda: zombie.add_log("still here"),
        lambda: zombie.succeed({"timing": {}}, None),
        lambda: zombie.fail("runner_error", "still here", retry_limit=3),
        lambda: zombie.fail("runner_died", "still here", retry_limit=3),
        lambda: zombie.stop_at_checkpoint("still here"),
    ]
    for write in writes:
        with pytest.raises(AttemptSuperseded):
            write()
    assert [count(sessions, table) for table in (Epoch, LogChunk, JobResult)] == [0, 0, 0]
    assert count(sessions, Transition) == moves
    row = job_row(sessions, job_id)
    assert (row.status, row.attempt, row.message) == ("running", 2, "Runs on a.")


def test_a_write_that_began_before_the_takeover_makes_the_takeover_wait(sessions: sessionmaker[Session]) -> None:
    job_id = submit(sessions)
    record = AttemptRecord(sessions, claimed(sessions))
    run_out(sessions, job_id)
    with record._locked(share=True):
        assert expire(sessions) == [], "the row is locked until the write is committed"
    assert expire(sessions) == [job_id]


def test_a_worker_suspended_within_a_write_loses_the_row_and_then_the_attempt(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    settings = Settings(DATABASE_URL=engine.url.render_as_string(hide_password=False), environment="development")
    own_engine = sync_engine(settings, pool_size=1)
    job_id = submit(sessions)
    record = AttemptRecord(sync_sessions(own_engine), claimed(sessions))
    run_out(sessions, job_id)
    deadline = time.monotonic() + 30

    def write_with_a_long_break() -> None:
        with record._locked(share=True) as (session, job):
            while not expire(sessions):
                assert time.monotonic() < deadline, "the row was never given up"
                time.sleep(0.1)
            session.execute(notification(job.id))

    with pytest.raises(InternalError, match="idle-in-transaction"):
        write_with_a_long_break()
    own_engine.dispose()
    assert job_row(sessions, job_id).status == Status.QUEUED


def test_a_repeated_epoch_takes_its_own_row_again(sessions: sessionmaker[Session]) -> None:
    submit(sessions)
    record = AttemptRecord(sessions, claimed(sessions))
    record.add_epoch(trained(), CHECKPOINT)
    record.add_epoch(trained(seconds=9.0), CHECKPOINT)
    with sessions() as session:
        (row,) = session.scalars(select(Epoch)).all()
    assert row.seconds == 9.0


def test_an_attempt_that_begins_anew_overtakes_what_earlier_ones_had_recorded(sessions: sessionmaker[Session]) -> None:
    job_id = submit(sessions)
    first = AttemptRecord(sessions, claimed(sessions))
    for epoch in range(1, 6):
        first.add_epoch(trained(epoch, validation_accuracy=0.9 + epoch / 100), CHECKPOINT)
    run_out(sessions, job_id)
    expire(sessions)
    second = AttemptRecord(sessions, claimed(sessions))
    for epoch in (1, 2):
        second.add_epoch(trained(epoch, validation_accuracy=epoch / 10), CHECKPOINT)
    with sessions() as session:
        rows = session.execute(select(Epoch.epoch, Epoch.attempt).order_by(Epoch.epoch)).all()
        scores = session.get_one(Scores, job_id)
    assert [tuple(row) for row in rows] == [(1, 2), (2, 2)]
    assert (scores.last_epoch, scores.best_epoch, scores.best_validation_accuracy) == (2, 2, 0.2)


def test_the_next_attempt_is_given_the_newest_checkpoints_and_the_time_used(sessions: sessionmaker[Session]) -> None:
    job_id = submit(sessions)
    record = AttemptRecord(sessions, claimed(sessions))
    for epoch in (1, 2, 3):
        saved = CHECKPOINT.model_copy(update={"epoch": epoch, "file": f"checkpoint-0001-{epoch:06d}.pt"})
        record.add_epoch(trained(epoch), saved)
    run_out(sessions, job_id)
    expire(sessions)
    again = claimed(sessions)
    assert [checkpoint.epoch for checkpoint in again.checkpoints] == [3, 2, 1], "the last two, and the best"
    assert 0 < again.seconds_used < 60


def test_a_finish_after_a_cancel_was_asked_for_ends_as_cancelled(sessions: sessionmaker[Session]) -> None:
    job_id = submit(sessions)
    record = AttemptRecord(sessions, claimed(sessions))
    with sessions.begin() as session:
        session.get_one(Job, job_id, with_for_update=True).cancel()
    record.succeed({"timing": {}}, None)
    row = job_row(sessions, job_id)
    assert (row.status, row.reason) == ("cancelled", "cancelled_by_user")
    assert count(sessions, JobResult) == 0
    with sessions() as session:
        assert session.scalars(select(Attempt.outcome)).all() == ["cancelled"]


def test_a_worker_lost_while_cancelling_leaves_a_cancelled_job(sessions: sessionmaker[Session]) -> None:
    job_id = submit(sessions)
    claimed(sessions)
    with sessions.begin() as session:
        session.get_one(Job, job_id, with_for_update=True).cancel()
    run_out(sessions, job_id)
    assert expire(sessions) == [job_id]
    assert job_row(sessions, job_id).status == Status.CANCELLED


def test_of_a_long_log_the_newest_part_is_kept(sessions: sessionmaker[Session]) -> None:
    submit(sessions)
    record = AttemptRecord(sessions, claimed(sessions))
    piece = LOG_LIMIT // 4
    for letter in "abcdef":
        record.add_log(letter * piece)
    with sessions() as session:
        kept = session.scalars(select(LogChunk.text).order_by(LogChunk.id)).all()
    assert [text[0] for text in kept] == ["c", "d", "e", "f"]


def test_a_success_stores_the_scores_and_the_times_that_only_the_database_knows(
    sessions: sessionmaker[Session],
) -> None:
    job_id = submit(sessions)
    record = AttemptRecord(sessions, claimed(sessions))
    figures = {"accuracy": {"test": 0.75}, "loss": {"test": 0.5}}
    record.succeed({"timing": {"setup_seconds": 1.0}, **figures}, None)
    with sessions() as session:
        timing = session.get_one(JobResult, job_id).body["timing"]
        scores = session.get_one(Scores, job_id)
    assert (scores.test_accuracy, scores.test_loss, scores.last_epoch) == (0.75, 0.5, None)
    assert 0 < timing["queued_seconds"] <= timing["total_seconds"] < 60
    assert timing["setup_seconds"] == 1.0


class Babbler:
    """A runner that says what Postgres cannot store, and of which a supervisor must not wait for ever."""

    def __init__(self) -> None:
        self.visits = 0

    def wait(self, seconds: float) -> bool:
        self.visits += 1
        assert self.visits < 5, "the same error is tried again and again"
        return False

    def take_events(self) -> list[Any]:
        return [Phase.model_construct(type="phase", message="nul \0 byte")]

    def take_output(self) -> str:
        return ""

    def set_deadline(self, purpose: str, moment: float) -> None:
        pass

    def set_lease_end(self, moment: float, seconds: float) -> None:
        pass


def test_an_error_that_does_not_pass_by_itself_is_not_waited_for(sessions: sessionmaker[Session]) -> None:
    submit(sessions)
    supervisor = supervisor_of(claimed(sessions), sessions, WorkerSettings(environment="development"))
    babbler: Any = Babbler()
    with pytest.raises(DataError):
        supervisor._follow(babbler)
