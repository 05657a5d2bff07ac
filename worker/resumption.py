"""Where the next attempt at a job goes on: the checkpoints that it may trust, and the seconds that were used."""

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from models.job import Job
from models.records import Attempt, Epoch
from models.scores import Scores
from worker.messages import CHECKPOINTS_KEPT, SavedCheckpoint


def seconds_used(session: Session, job: Job) -> float:
    """Return the seconds that attempts since the last retry of a person ran; waiting and pauses do not count."""
    used = func.sum(func.extract("epoch", Attempt.ended_at - Attempt.started_at))
    of_them = (Attempt.job_id == job.id, Attempt.number >= job.timed_since)
    return float(session.scalar(select(func.coalesce(used, 0)).where(*of_them)) or 0)


def checkpoints(session: Session, job: Job) -> list[SavedCheckpoint]:
    """Return the checkpoints that are kept, newest first: the last ones, and behind them that of the best epoch."""
    usable = (Epoch.job_id == job.id, Epoch.checkpoint.is_not(None), Epoch.attempt >= job.trained_since)
    newest = (
        select(Epoch.epoch)
        .where(*usable)
        # The newest attempt first: one that began anew has overtaken what it could not use.
        .order_by(Epoch.attempt.desc(), Epoch.epoch.desc())
        .limit(CHECKPOINTS_KEPT)
    )
    best = select(Scores.best_epoch).where(Scores.job_id == job.id).scalar_subquery()
    rows = session.scalars(
        select(Epoch)
        .where(*usable, or_(Epoch.epoch.in_(newest), Epoch.epoch == best))
        .order_by(Epoch.attempt.desc(), Epoch.epoch.desc())
    )
    return [
        SavedCheckpoint(
            attempt=row.attempt, epoch=row.epoch, file=row.checkpoint or "", sha256=row.checkpoint_sha256 or ""
        )
        for row in rows
    ]
