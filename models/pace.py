"""How long the epochs of like jobs took on a device, and how much memory: what estimates are made from."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from uuid import UUID

from sqlalchemy import BigInteger, TextClause, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, Session, mapped_column

from models.base import Base, DatabaseTime
from models.demand import CUDA_CONTEXT_BYTES, PEAK_MARGIN
from models.job import Job, Status
from models.line import enter_line
from models.records import Attempt, Epoch

CPU = "cpu"
_MIB = 2**20
# A waiting job's estimate is left alone until it is off by more: else each end of a job would rewrite all like ones.
_WORTH_A_CHANGE = 0.05


class Pace(Base):
    """What jobs of one likeness were measured at on one device: `cpu`, or a GPU by its product's name.

    Times are seconds: of an epoch, and of all besides (start, data, final evaluation), where each job counts as much as
    all before it. `gpu_memory_bytes` is what a like job is given of a GPU: the peak with a margin, at most all of it.
    """

    __tablename__ = "paces"

    likeness: Mapped[str] = mapped_column(primary_key=True)
    device: Mapped[str] = mapped_column(primary_key=True)
    epoch_seconds: Mapped[float]
    other_seconds: Mapped[float]
    gpu_memory_bytes: Mapped[int | None] = mapped_column(BigInteger, default=None)
    jobs: Mapped[int]
    updated_at: Mapped[DatabaseTime]


@dataclass(frozen=True)
class GpuUse:
    """Bytes of one GPU: the most that a job took of it, and all that it has."""

    peak_bytes: int
    all_bytes: int

    def to_ask_for(self) -> int:
        """Return what a like job is given: the peak x 1.2 and 0.5 GiB in whole MiB, but never more than there is."""
        wanted = ceil((self.peak_bytes * PEAK_MARGIN + CUDA_CONTEXT_BYTES) / _MIB) * _MIB
        return min(wanted, self.all_bytes)


def record_pace(
    session: Session, job: Job, *, device: str, epoch_seconds: float, other_seconds: float, gpu: GpuUse | None
) -> None:
    """Take what a job that succeeded was measured at into the pace of its like, and bring like waiting jobs up to date.

    `device` is `cpu` or the GPU's product name. The time of a lost attempt is nobody's pace: see `measured_seconds`.
    """
    new = insert(Pace).values(
        likeness=job.likeness,
        device=device,
        epoch_seconds=epoch_seconds,
        other_seconds=other_seconds,
        gpu_memory_bytes=None if gpu is None else gpu.to_ask_for(),
        jobs=1,
    )
    memory = new.excluded.gpu_memory_bytes
    session.execute(
        new.on_conflict_do_update(
            index_elements=["likeness", "device"],
            set_={
                "epoch_seconds": (Pace.epoch_seconds + new.excluded.epoch_seconds) / 2,
                "other_seconds": (Pace.other_seconds + new.excluded.other_seconds) / 2,
                # Up at once, for too little ends a job; down by halves.
                "gpu_memory_bytes": func.greatest(
                    memory, func.coalesce((Pace.gpu_memory_bytes + memory) // 2, Pace.gpu_memory_bytes)
                ),
                "jobs": Pace.jobs + 1,
                "updated_at": func.clock_timestamp(),
            },
        )
    )
    stale = session.scalars(_STALE, {"likeness": job.likeness, "tolerance": _WORTH_A_CHANGE}).all()
    if stale:
        enter_line(session)  # a claim passes over rows that somebody holds: these would lose their turn
        session.execute(refresh_estimates(stale))


def measured_seconds(session: Session, job: Job) -> tuple[float, float] | None:
    """Return the mean seconds of the job's epochs, and those of its running attempt besides its own epochs.

    Epochs of earlier attempts count among the former; None where no epoch was recorded. By the database's clock.
    """
    of_this = Epoch.attempt == job.attempt
    epochs = (
        select(func.avg(Epoch.seconds), func.coalesce(func.sum(Epoch.seconds).filter(of_this), 0))
        .where(Epoch.job_id == job.id, Epoch.epoch > 0)
    )  # fmt: skip
    mean, own = session.execute(epochs).one()
    if mean is None:
        return None
    ran = func.extract("epoch", func.clock_timestamp() - Attempt.started_at)
    whole = session.scalars(select(ran).where(Attempt.job_id == job.id, Attempt.number == job.attempt)).one()
    return float(mean), max(0.0, float(whole) - float(own))


def refresh_estimates(job_ids: Sequence[UUID]) -> TextClause:
    """Return the statement that fills in `estimated_seconds` and `gpu_memory_bytes` of queued jobs from the paces.

    The estimate is an upper bound: all epochs that are left, though early stopping may end the job before, on the
    slowest device that it may run on with the workers that serve its queue; with none of these, on the slowest of all.
    It is null where nothing like the job was measured there. The memory is filled in where the spec says "auto". A job
    that somebody else is changing keeps what it has: to wait for a request that hangs would hold up the end of another
    job, and with it every claim.
    """
    return _REFRESH.bindparams(job_ids=list(job_ids))


def _estimated_seconds(likeness: str, device: str, epochs: str, queue: str) -> str:
    # On the CPU such a job runs on any worker, but one for `auto` only where there are no GPUs.
    at_hand = f"""EXISTS (
        SELECT FROM workers WHERE stopped_at IS NULL AND {queue} = ANY (queues) AND CASE
            WHEN paces.device = '{CPU}' THEN {device} = '{CPU}' OR gpus = '[]'
            ELSE gpus @> jsonb_build_array(jsonb_build_object('name', paces.device))
        END
    )"""
    seconds = f"other_seconds + {epochs} * epoch_seconds"
    return f"""(
        SELECT coalesce(max({seconds}) FILTER (WHERE {at_hand}), max({seconds})) FROM paces
        WHERE paces.likeness = {likeness} AND ({device} = 'auto' OR ({device} = '{CPU}') = (paces.device = '{CPU}'))
    )"""  # noqa: S608 - names of this file


def _measured_memory(likeness: str) -> str:
    return f"(SELECT max(paces.gpu_memory_bytes) FROM paces WHERE paces.likeness = {likeness})"  # noqa: S608 - as above


def _is_off(column: str, value: str) -> str:
    return f"({column} IS DISTINCT FROM {value} AND (abs({column} - {value}) > :tolerance * {column}) IS NOT FALSE)"


# What an INSERT of a new job by the bare driver puts into these columns; it has the others as its parameters.
ESTIMATED_SECONDS = _estimated_seconds("%(likeness)s", "%(device)s", "%(epochs)s", "%(queue)s")
GPU_MEMORY_BYTES = (
    f"CASE WHEN %(device)s <> '{CPU}' THEN coalesce(%(gpu_memory_bytes)s, {_measured_memory('%(likeness)s')}) END"
)

_EPOCHS_LEFT = """(jobs.epochs - coalesce((
        SELECT max(epoch) FROM epochs WHERE job_id = jobs.id AND attempt >= jobs.trained_since
    ), 0))"""
_ESTIMATE = _estimated_seconds("jobs.likeness", "jobs.device", _EPOCHS_LEFT, "jobs.queue")
_MEMORY = f"""CASE WHEN jobs.device <> '{CPU}' AND jobs.spec -> 'resources' ->> 'gpu_memory_gb' = 'auto'
    THEN {_measured_memory("jobs.likeness")} ELSE jobs.gpu_memory_bytes END"""
_STALE = text(
    f"""
    SELECT id FROM jobs
    WHERE status = '{Status.QUEUED}' AND likeness = :likeness
        AND ({_is_off("estimated_seconds", _ESTIMATE)} OR {_is_off("gpu_memory_bytes", _MEMORY)})
    """  # noqa: S608 - names of this file
).columns(id=Job.id.type)
_REFRESH = text(
    f"""
    WITH free AS (
        SELECT id FROM jobs WHERE id = ANY(:job_ids) AND status = '{Status.QUEUED}' FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE jobs SET estimated_seconds = {_ESTIMATE}, gpu_memory_bytes = {_MEMORY} FROM free WHERE jobs.id = free.id
    """  # noqa: S608 - names of this file
)
