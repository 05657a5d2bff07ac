"""The weights that a job begins with: a checkpoint of another job, chosen once and kept under a name of its own."""

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.errors import InitialCheckpointLost
from models.job import Job
from models.records import Epoch
from models.result import InitialWeights
from models.scores import Scores
from models.spec import InitialCheckpoint
from worker.full_disk import space_for
from worker.messages import INITIAL_FILE

_PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT}  # of a disk or a file server, not of the checkpoint


@dataclass(frozen=True)
class Choice:
    """A checkpoint of another job, as Postgres knows it: what is told of it, and its file's name there."""

    weights: InitialWeights
    file: str


def choose(session: Session, initial: InitialCheckpoint) -> Choice:
    """Return the best or the last checkpoint that the other job has now; raise InitialCheckpointLost without one."""
    query = (
        select(Epoch.epoch, Epoch.checkpoint, Epoch.checkpoint_sha256)
        .join(Job, Job.id == Epoch.job_id)
        .join(Scores, Scores.job_id == Epoch.job_id)
        .where(Job.id == initial.job, Epoch.attempt >= Job.trained_since, Epoch.checkpoint.is_not(None))
        .where(Epoch.epoch == (Scores.best_epoch if initial.which == "best" else Scores.last_epoch))
    )
    row = session.execute(query).one_or_none()
    if row is None:
        raise InitialCheckpointLost(f"Job {initial.job} has no {initial.which} checkpoint any more to start from.")
    told: dict[str, Any] = {"job": initial.job, "which": initial.which, "epoch": row.epoch}
    return Choice(InitialWeights(**told, sha256=row.checkpoint_sha256), row.checkpoint)


def keep(look: Callable[[], Choice], artifacts: Path, own: Path) -> InitialWeights:
    """Keep the file of what `look` finds in the job's own directory, where nobody else removes it.

    `artifacts` holds a directory for each job. While the other job trains, its older checkpoints go: it is looked for
    again until the file is there, or its row is the same as before. Raises InitialCheckpointLost, DiskFull, or OSError
    where the disk or the file server fails.
    """
    choice = look()
    while not _taken_over(choice, artifacts, own):
        newer = look()
        if newer == choice:
            message = f"Checkpoint {choice.file} of job {choice.weights.job} is not on disk any more."
            raise InitialCheckpointLost(message)
        choice = newer
    return choice.weights


def _taken_over(choice: Choice, artifacts: Path, own: Path) -> bool:
    """Give a file a second name, or copy it to another file system; return False where it is not there."""
    source, target = artifacts / str(choice.weights.job) / choice.file, own / INITIAL_FILE
    try:
        with space_for("the initial checkpoint", own):
            own.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)  # of an attempt that was lost before it was recorded
            _link_or_copy(source, target)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno in _PASSING:
            raise  # the lease runs out, and another attempt finds it
        message = f"Checkpoint {choice.file} of job {choice.weights.job} could not be taken over: {error.strerror}."
        raise InitialCheckpointLost(message) from error
    return True


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)  # a checkpoint is never written to again
    except FileNotFoundError:
        raise
    except OSError:
        aside = target.with_suffix(".part")
        try:
            shutil.copyfile(source, aside)
            aside.rename(target)
        except OSError:
            aside.unlink(missing_ok=True)
            raise
