"""The workers that have served this lab: what each has, what an admin wants of it, and when it was last heard of."""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ARRAY, BigInteger, ColumnElement, Text, case, func, or_
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, DatabaseTime, Key
from models.forecast import Place, Running


class WorkerState(StrEnum):
    """Whether a worker takes jobs."""

    ONLINE = "online"  # heard of within the lease, and takes jobs
    DRAINING = "draining"  # finishes what it runs and takes nothing new
    OFFLINE = "offline"  # stopped, or not heard of for longer than a lease


class Worker(Base):
    """One worker by its name; who comes back with the name takes the row again, and stays drained if it was.

    `gpus` lists {uuid, name, memory_bytes}; `load` is what the last heartbeat measured.
    """

    __tablename__ = "workers"

    id: Mapped[Key]
    name: Mapped[str] = mapped_column(unique=True)
    instance: Mapped[str]  # the process that bears the name now
    host: Mapped[str]
    version: Mapped[str]
    queues: Mapped[list[str]] = mapped_column(ARRAY(Text))
    slots: Mapped[int]
    cores: Mapped[int]
    processor: Mapped[str]
    memory_bytes: Mapped[int] = mapped_column(BigInteger)
    gpus: Mapped[list[dict[str, Any]]]
    load: Mapped[dict[str, Any]]
    lease_seconds: Mapped[float]  # its own setting: silent for longer, it is offline
    started_at: Mapped[DatabaseTime]
    heartbeat_at: Mapped[DatabaseTime]
    stopped_at: Mapped[datetime | None] = mapped_column(default=None)
    draining_since: Mapped[datetime | None] = mapped_column(default=None)

    @classmethod
    def is_silent(cls) -> ColumnElement[bool]:
        """Return the SQL condition that it was not heard of for a lease, by the database's clock."""
        return cls.heartbeat_at < func.clock_timestamp() - func.make_interval(0, 0, 0, 0, 0, 0, cls.lease_seconds)

    @classmethod
    def state(cls) -> ColumnElement[str]:
        """Return the SQL expression of its WorkerState as it is now."""
        return case(
            (or_(cls.stopped_at.is_not(None), cls.is_silent()), WorkerState.OFFLINE.value),
            (cls.draining_since.is_not(None), WorkerState.DRAINING.value),
            else_=WorkerState.ONLINE.value,
        )

    def place(self, running: Sequence[Running]) -> Place:
        """Return it as forecasts see it, with what runs there."""
        return Place(
            name=self.name,
            queues=self.queues,
            has_gpus=bool(self.gpus),
            slots=self.slots,
            gpus={gpu["uuid"]: gpu["memory_bytes"] for gpu in self.gpus},
            running=running,
        )
