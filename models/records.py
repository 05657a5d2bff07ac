"""What is recorded of a job while it runs: its moves, attempts, epochs, result and log."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, JSON, BigInteger, ForeignKey, Identity, Index, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, DatabaseTime


class Transition(Base):
    """One change of a job's status, with the database's time; its order is its id."""

    __tablename__ = "transitions"
    __table_args__ = (Index(None, "job_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    from_status: Mapped[str | None] = mapped_column(default=None)
    to_status: Mapped[str]
    reason: Mapped[str | None] = mapped_column(default=None)
    message: Mapped[str | None] = mapped_column(default=None)
    attempt: Mapped[int]
    at: Mapped[DatabaseTime]


class Attempt(Base):
    """One try at a job by one worker; its number is the fencing token that each of its writes carries."""

    __tablename__ = "attempts"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    worker: Mapped[str]
    gpus: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))  # UUIDs; none: it ran on the CPU
    started_at: Mapped[DatabaseTime]
    ended_at: Mapped[datetime | None] = mapped_column(default=None)
    outcome: Mapped[str | None] = mapped_column(default=None)


class Epoch(Base):
    """The metrics of one finished epoch and the checkpoint that was written with it."""

    __tablename__ = "epochs"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    attempt: Mapped[int]
    train_loss: Mapped[float]
    train_accuracy: Mapped[float | None]
    validation_loss: Mapped[float | None]
    validation_accuracy: Mapped[float | None]
    learning_rate: Mapped[float]
    penalty: Mapped[float]
    seconds: Mapped[float]
    # json, as a result's body: what is served is what was recorded
    replicas: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True), default=None)
    checkpoint: Mapped[str | None]  # file name under the job's artifact directory
    checkpoint_sha256: Mapped[str | None]
    recorded_at: Mapped[DatabaseTime]


class JobResult(Base):
    """The result of a succeeded job, as the JSON text that is served."""

    __tablename__ = "results"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int]
    # json, not jsonb: it keeps the order of keys, and is served as it stands.
    body: Mapped[dict[str, Any]] = mapped_column(JSON())
    # The body without what grows with epochs and classes: many results are compared without reading all of each.
    essentials: Mapped[dict[str, Any]] = mapped_column(JSON())
    created_at: Mapped[DatabaseTime]


class LogChunk(Base):
    """A piece of what a runner printed; the oldest pieces of a long log are dropped."""

    __tablename__ = "log_chunks"
    __table_args__ = (Index(None, "job_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    attempt: Mapped[int]
    text: Mapped[str]
    at: Mapped[DatabaseTime]
