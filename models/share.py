"""Each user's part in the queue: weight, limits, and what they have used, which counts less as time passes."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, text
from sqlalchemy.orm import Mapped, Session, mapped_column

from models.base import Base, DatabaseTime
from models.settings import queue_rules
from models.user import User

DEFAULT_WEIGHT = 1.0
LEAST_WEIGHT = 0.001  # what was used is divided by it: less would lead beyond all numbers
# The moment that a statement of the queue goes by: the database's, or for a simulation so many seconds ahead of it.
NOW = "(statement_timestamp() + make_interval(secs => :ahead))"
# How much of what was used at `as_of` still counts. After a hundred half-lives nothing does, and a power would fail.
DECAY = f"power(2, -least(greatest(date_part('epoch', {NOW} - shares.as_of) / :half_life, 0), 100))"


class Share(Base):
    """One user's; who has no row has the defaults and has used nothing.

    `gpu_seconds` and `cpu_seconds` are what ended attempts used, as it counted at `as_of`: after a half-life it counts
    half. `served_at` is when a job of theirs was claimed last that runs on GPUs, `cpu_served_at` one of the CPU: ageing
    counts from them, apart, for the two kinds of device do not stand in each other's way.
    """

    __tablename__ = "shares"
    __table_args__ = (CheckConstraint(f"weight >= {LEAST_WEIGHT}", "weight"),)

    user_id: Mapped[UUID] = mapped_column(ForeignKey(User.id, ondelete="CASCADE"), primary_key=True)
    weight: Mapped[float] = mapped_column(server_default=f"{DEFAULT_WEIGHT:g}")
    max_running: Mapped[int | None] = mapped_column(default=None)
    max_queued: Mapped[int | None] = mapped_column(default=None)
    gpu_seconds: Mapped[float] = mapped_column(server_default="0")
    cpu_seconds: Mapped[float] = mapped_column(server_default="0")
    as_of: Mapped[DatabaseTime]
    served_at: Mapped[datetime | None] = mapped_column(default=None)
    cpu_served_at: Mapped[datetime | None] = mapped_column(default=None)


def charge(
    session: Session, user_id: UUID, *, gpu_seconds: float, cpu_seconds: float, ahead_seconds: float = 0.0
) -> None:
    """Add what an attempt of this user has used to what is left of all before it."""
    half_life = queue_rules().share_half_life_seconds
    used = {"user_id": user_id, "gpu_seconds": gpu_seconds, "cpu_seconds": cpu_seconds}
    session.execute(_CHARGE, used | {"half_life": half_life, "ahead": ahead_seconds})


_CHARGE = text(f"""
    INSERT INTO shares (user_id, gpu_seconds, cpu_seconds, as_of)
    VALUES (:user_id, :gpu_seconds, :cpu_seconds, {NOW})
    ON CONFLICT (user_id) DO UPDATE SET
        gpu_seconds = shares.gpu_seconds * {DECAY} + excluded.gpu_seconds,
        cpu_seconds = shares.cpu_seconds * {DECAY} + excluded.cpu_seconds,
        as_of = excluded.as_of
""")  # noqa: S608 - names of this program
