"""A job: its status and the moves between them, what it asks of a worker, and the jobs it waits for."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Select,
    String,
    cast,
    func,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, WriteOnlyMapped, mapped_column, relationship

from models.base import Base, DatabaseTime, Key
from models.demand import demand_of, likeness
from models.errors import IllegalMove, JobNotFinished, NoResult, TrainyardError
from models.reasons import (
    CANCELLED_BY_USER,
    OUT_OF_MEMORY,
    PAUSED_BY_USER,
    PREEMPTED,
    STOPPED_BY_SWEEP,
    TIME_LIMIT,
)
from models.records import Attempt, Transition
from models.spec import RetrySpec
from models.sweep import Sweep
from models.user import User

CHANNEL = "trainyard_jobs"  # NOTIFY channel; the payload is the id of a job that changed


class Status(StrEnum):
    """Where a job is; why it is there is its `reason`."""

    QUEUED = "queued"  # waits for a worker
    RUNNING = "running"  # an attempt holds the lease
    PAUSING = "pausing"  # a pause is asked for; the attempt still runs
    PAUSED = "paused"  # stopped at a checkpoint, holds no slot
    CANCELLING = "cancelling"  # a cancel is asked for; the attempt still runs
    CANCELLED = "cancelled"  # ended by a person; may be tried again
    SUCCEEDED = "succeeded"  # ended with a result; the one status that never changes again
    FAILED = "failed"  # ended without a result; may be tried again


# Ended. Of these only SUCCEEDED is for ever: whoever keeps what is true of an ended job must not keep it of the others.
FINAL = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED})
# In SQL what Demand.takes_whole_gpus says of a job that runs on GPUs.
TAKES_WHOLE_GPUS = "exclusive OR gpus > 1 OR gpu_memory_bytes IS NULL"
LIVE = frozenset({Status.RUNNING, Status.PAUSING, Status.CANCELLING})  # an attempt may write

MOVES: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.PAUSED, Status.CANCELLED, Status.FAILED}),
    Status.RUNNING: frozenset({Status.QUEUED, Status.PAUSING, Status.CANCELLING, Status.SUCCEEDED, Status.FAILED}),
    Status.PAUSING: frozenset(
        {Status.PAUSED, Status.RUNNING, Status.CANCELLING, Status.SUCCEEDED, Status.FAILED, Status.QUEUED}
    ),
    Status.PAUSED: frozenset({Status.QUEUED, Status.CANCELLED, Status.FAILED}),
    Status.CANCELLING: frozenset({Status.CANCELLED}),
    Status.SUCCEEDED: frozenset(),
    Status.FAILED: frozenset({Status.QUEUED}),
    Status.CANCELLED: frozenset({Status.QUEUED}),
}


def _one_of(statuses: type[Status] | frozenset[Status]) -> str:
    return ", ".join(f"'{status.value}'" for status in Status if status in statuses)


class Job(Base):
    """One training job; every change of its status goes through `move`, on a row locked by the caller."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(f"status IN ({_one_of(Status)})", "status"),
        # A claim looks at the first jobs of each user, and where a worker can run none of these, at those of each kind.
        Index(
            "ix_jobs_line",
            "queue",
            "device",
            "gpus",
            text(f"({TAKES_WHOLE_GPUS})"),
            "user_id",
            text("priority DESC"),
            "id",
            postgresql_where=text(f"status = '{Status.QUEUED}' AND unmet = 0"),
        ),
        Index(
            "ix_jobs_queued_of_user",
            "user_id",
            text("priority DESC"),
            "id",
            postgresql_where=text(f"status = '{Status.QUEUED}'"),
        ),
        Index("ix_jobs_reserved_by", "reserved_by", postgresql_where=text("reserved_by IS NOT NULL")),
        Index("ix_jobs_queued_alike", "likeness", postgresql_where=text(f"status = '{Status.QUEUED}'")),
        Index("ix_jobs_lease", "lease_expires_at", postgresql_where=text(f"status IN ({_one_of(LIVE)})")),
        Index("ix_jobs_status_id", "status", "id"),
        Index("ix_jobs_deleted", "id", postgresql_where=text("deleted_at IS NOT NULL")),
        Index(
            "ix_jobs_ended_with_files",
            "created_at",
            postgresql_where=text(f"status IN ({_one_of(FINAL)}) AND artifacts_removed_at IS NULL"),
        ),
        Index("ix_jobs_created_at_id", "created_at", "id"),
        Index("ix_jobs_dataset_id", text("((spec -> 'dataset') ->> 'name')"), "id"),
        Index("ix_jobs_network_id", text("((spec -> 'network') ->> 'name')"), "id"),
        *(
            Index(
                f"ix_jobs_{field}",
                literal_column(f"(spec -> '{field}')").label(field),
                postgresql_using="gin",
                postgresql_ops={field: "jsonb_path_ops"},
            )
            for field in ("tags", "metadata")
        ),
        Index("ix_jobs_user_id_id", "user_id", "id"),
        Index("ix_jobs_sweep_id_id", "sweep_id", "id", postgresql_where=text("sweep_id IS NOT NULL")),
    )

    id: Mapped[Key]
    user_id: Mapped[UUID] = mapped_column(ForeignKey(User.id))
    sweep_id: Mapped[UUID | None] = mapped_column(ForeignKey(Sweep.id), default=None)
    name: Mapped[str | None]
    queue: Mapped[str]
    priority: Mapped[int] = mapped_column(default=0)
    # What it asks of a worker, as models.demand has it; `exclusive` also after a lack of memory beside others.
    device: Mapped[str]
    gpus: Mapped[int]
    gpu_memory_bytes: Mapped[int | None] = mapped_column(BigInteger, default=None)
    exclusive: Mapped[bool] = mapped_column(default=False)
    likeness: Mapped[str]
    estimated_seconds: Mapped[float | None] = mapped_column(default=None)  # from start to end; null: nobody knows
    unmet: Mapped[int] = mapped_column(default=0)  # jobs it depends on that have not succeeded yet
    queued_at: Mapped[DatabaseTime]  # since when it waits; ageing counts from it
    reserved_by: Mapped[str | None] = mapped_column(default=None)  # the worker that keeps what it needs for it
    reserved_for: Mapped[datetime | None] = mapped_column(default=None)  # when it starts there; null: nobody knows
    status: Mapped[str] = mapped_column(default=Status.QUEUED.value)
    reason: Mapped[str | None] = mapped_column(default=None)
    message: Mapped[str | None] = mapped_column(default=None)
    spec: Mapped[dict[str, Any]]
    epochs: Mapped[int]
    attempt: Mapped[int] = mapped_column(default=0)  # the fencing token of the newest attempt
    retries: Mapped[int] = mapped_column(default=0)  # attempts that ended without a result and were followed by another
    # The first attempt whose checkpoints count, and the first whose seconds do: a person's retry moves them.
    trained_since: Mapped[int] = mapped_column(default=1, server_default=text("1"))
    timed_since: Mapped[int] = mapped_column(default=1, server_default=text("1"))
    # Chosen once, by the first attempt that there are checkpoints of.
    initial_weights: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True), default=None)
    yields_to: Mapped[UUID | None] = mapped_column(default=None)  # the waiting job that its slot is wanted for
    lease_expires_at: Mapped[datetime | None] = mapped_column(default=None)
    created_at: Mapped[DatabaseTime]
    artifacts_removed_at: Mapped[datetime | None] = mapped_column(default=None)  # it has no files any more
    deleted_at: Mapped[datetime | None] = mapped_column(default=None)  # from then on nobody sees it

    transitions: WriteOnlyMapped["Transition"] = relationship(passive_deletes=True)
    attempts: WriteOnlyMapped["Attempt"] = relationship(passive_deletes=True)

    @classmethod
    def submit(cls, spec: dict[str, Any], *, user_id: UUID, unmet: Sequence[UUID] = ()) -> "Job":
        """Return a new queued job of this user for a resolved spec; `unmet` are the jobs that have to succeed first."""
        message = waits_for(spec, unmet)
        job = cls(user_id=user_id, spec=spec, status=Status.QUEUED.value, message=message, **columns_of(spec))
        job.unmet = len(unmet)
        job.transitions.add(Transition(to_status=job.status, message=message, attempt=0))
        return job

    def why_no_result(self) -> TrainyardError:
        """Return the error that says why there is no result: the job has not ended, or has ended without one."""
        if Status(self.status) not in FINAL:
            return JobNotFinished(f"The job is {self.status}; its result is there when it has succeeded.")
        return NoResult(f"The job ended as {self.status} and has no result: {self.message}")

    def move(self, to: Status, *, reason: str | None = None, message: str | None = None) -> None:
        """Change the status along MOVES and keep the transition; raise IllegalMove off the table."""
        if to not in MOVES[Status(self.status)]:
            raise IllegalMove(f"A job that is {self.status} cannot become {to.value}.")
        self.transitions.add(
            Transition(
                from_status=self.status, to_status=to.value, reason=reason, message=message, attempt=self.attempt
            )
        )
        self.status, self.reason, self.message = to.value, reason, message
        self.reserved_by = self.reserved_for = None
        if to not in LIVE:
            self.lease_expires_at = None
        if to is not Status.RUNNING:
            self.yields_to = None
        if to is Status.QUEUED:
            self.queued_at = func.clock_timestamp()

    def cancel(self) -> bool:
        """Ask for the end of the job; return whether that changed anything (a second cancel does not)."""
        match Status(self.status):
            case Status.QUEUED | Status.PAUSED:
                self.end_cancelled()
            case Status.RUNNING | Status.PAUSING:
                self.move(Status.CANCELLING, reason=CANCELLED_BY_USER, message="Stops at a user's request.")
            case _:
                return False
        return True

    def pause(self) -> None:
        """Ask for a stop at a checkpoint, or keep a waiting job from starting; raise IllegalMove."""
        match Status(self.status):
            case Status.QUEUED:
                self.move(Status.PAUSED, reason=PAUSED_BY_USER, message="Paused by a user.")
            case Status.RUNNING:
                self.move(Status.PAUSING, reason=PAUSED_BY_USER, message="Stops after this epoch, at a user's request.")
            case _:
                raise self._refusal("paused")

    def resume(self, unmet: Sequence[UUID] = ()) -> None:
        """Let a paused job wait again, or take a pause back that has not come about; raise IllegalMove.

        `unmet` are the jobs that have to succeed first.
        """
        match Status(self.status):
            case Status.PAUSED:
                self.move(Status.QUEUED, message=waits_for(self.spec, unmet))
                self.unmet = len(unmet)
            case Status.PAUSING:
                self.move(Status.RUNNING, message="Goes on: the pause was taken back.")
            case _:
                raise self._refusal("resumed")

    def retry(self, unmet: Sequence[UUID] = (), *, from_start: bool) -> None:
        """Try a job again that has failed or was cancelled, with a new time limit and no losses; raise IllegalMove.

        Its next attempt goes on from the last checkpoint, or uses none; the epochs that there are stay until it has
        recorded its own. `unmet` are the jobs that have to succeed first.
        """
        if self.status not in (Status.FAILED, Status.CANCELLED):
            raise self._refusal("tried again")
        self.move(Status.QUEUED, message=waits_for(self.spec, unmet))
        self.unmet, self.retries, self.timed_since = len(unmet), 0, self.attempt + 1
        self.artifacts_removed_at = None
        if from_start:
            self.trained_since = self.attempt + 1

    def amend(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Take another priority, name or tags while the job waits; return those that are new. Raises IllegalMove.

        The spec in the row follows: it is what lists search, and what a clone starts from.
        """
        if self.status != Status.QUEUED:
            raise IllegalMove(f"A job that is {self.status} is not changed: only one that is queued can be.")
        new = {field: value for field, value in wanted.items() if self.spec[field] != value}
        self.spec = self.spec | new
        self.name, self.priority = self.spec["name"], self.spec["priority"]
        return new

    def delete(self) -> None:
        """Let nobody see an ended job any more: its files go next, and its row last. Raises IllegalMove."""
        if Status(self.status) not in FINAL:
            raise self._refusal("deleted")
        self.deleted_at = func.clock_timestamp()

    def lose_artifacts(self) -> None:
        """Take note that an ended job's files are gone: a retry begins anew, with weights that are chosen anew."""
        self.artifacts_removed_at = func.clock_timestamp()
        self.initial_weights = None

    def stop_for_sweep(self, message: str) -> bool:
        """Ask for the end of a running job that its sweep gives up for what `message` says; return as `cancel` does."""
        if self.status != Status.RUNNING:
            return False
        self.move(Status.CANCELLING, reason=STOPPED_BY_SWEEP, message=message)
        return True

    def end_cancelled(self) -> None:
        """End a job that a user, or its sweep, no longer wants."""
        if self.reason == STOPPED_BY_SWEEP:
            self.move(Status.CANCELLED, reason=self.reason, message=self.message)
        else:
            self.move(Status.CANCELLED, reason=CANCELLED_BY_USER, message="Cancelled by a user.")

    def stop_at_checkpoint(self, message: str) -> None:
        """Leave the worker because that was asked for: paused, or back to the queue; that is no loss."""
        if self.status == Status.PAUSING:
            self.move(Status.PAUSED, reason=PAUSED_BY_USER, message="Paused by a user.")
        else:
            self.move(Status.QUEUED, reason=PREEMPTED, message=f"{message} Goes on from the last checkpoint.")

    def retry_alone(self, message: str) -> None:
        """Let a job whose shared GPU had no more memory wait for GPUs of its own, or pause where that is asked for."""
        self.exclusive = True
        self.move(
            Status.PAUSED if self.status == Status.PAUSING else Status.QUEUED, reason=OUT_OF_MEMORY, message=message
        )

    def lose_attempt(self, reason: str, message: str, *, retry_limit: int) -> None:
        """End the attempt without a result: back to the queue, counted, or failed where it is not to be tried again.

        Which reasons are tried again, and how often, is for the spec to say; else it is the table of models/reasons.py
        and `retry_limit`. A time limit that is tried again starts anew. Raises IllegalMove where no attempt runs.
        """
        retry = RetrySpec.model_validate(self.spec.get("retry", {}))
        limit = retry_limit if retry.limit is None else retry.limit
        is_retried = retry.covers(reason)
        if is_retried and reason == TIME_LIMIT:
            self.timed_since = self.attempt + 1
        match Status(self.status):
            case Status.CANCELLING:
                self.end_cancelled()
            case Status.RUNNING | Status.PAUSING if not is_retried:
                self.move(Status.FAILED, reason=reason, message=message)
            case Status.PAUSING:
                self.move(Status.PAUSED, reason=reason, message=message)
            case Status.RUNNING if self.retries >= limit:
                self.move(
                    Status.FAILED, reason=reason, message=f"{message} Not tried again after {self.retries} retries."
                )
            case Status.RUNNING:
                self.retries += 1
                self.move(Status.QUEUED, reason=reason, message=f"{message} Goes on from the last checkpoint.")
            case _:
                raise IllegalMove(f"A job that is {self.status} has no attempt to lose.")

    def _refusal(self, asked: str) -> IllegalMove:
        return IllegalMove(f"A job that is {self.status} cannot be {asked}.")


class Dependency(Base):
    """A job that waits for another to succeed."""

    __tablename__ = "dependencies"
    __table_args__ = (Index(None, "needs_id"),)

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    needs_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)


def columns_of(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of a new job that repeat what its resolved spec says, to be searched and compared."""
    return {
        "name": spec["name"],
        "queue": spec["queue"],
        "priority": spec["priority"],
        "epochs": spec["training"]["epochs"],
        "likeness": likeness(spec),
        **asdict(demand_of(spec)),
    }


def waits_for(spec: dict[str, Any], unmet: Sequence[UUID] = ()) -> str:
    """Return the sentence of a queued job that says what it waits for: these jobs first, then a worker.

    The trigger `settle_dependents` writes the same sentences.
    """
    if unmet:
        more = f" and {len(unmet) - 1} more" if len(unmet) > 1 else ""
        return f"Waits for job {unmet[0]}{more}."
    return "Waits for a worker with a GPU." if spec["resources"]["device"] == "cuda" else "Waits for a worker."


def notification(job_id: UUID) -> Select[Any]:
    """Return the statement that tells listeners, when its transaction commits, that this job changed."""
    return select(func.pg_notify(CHANNEL, cast(str(job_id), String)))


def database_now_plus(seconds: float) -> Any:
    """Return the SQL expression of a moment `seconds` from now, by the database's clock."""
    return func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)
