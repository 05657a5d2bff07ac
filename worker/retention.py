"""What is removed of ended jobs: files first and the row last, so that a kill in between leaves nothing behind."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from uuid import UUID

import structlog
from sqlalchemy import ColumnElement, Select, delete, func, select, update
from sqlalchemy.orm import Session, sessionmaker

from models.deletion import let_points_go, may_go
from models.faults import FaultPoint, fault_point
from models.job import Job, notification
from models.records import Epoch
from models.user import AuditEntry
from worker.settings import WorkerSettings

log = structlog.get_logger(__name__)

ARTIFACTS_MARK = ".trainyard"  # a file that workers make: an empty folder may be where a volume is to be mounted
_STUCK_SECONDS = 3_600.0  # after which files that could not be removed are tried again
_PIECE = 100  # jobs of one look: the scheduler has leases to see to
_SECONDS = 2.0  # after which the rest waits for the next look


class Retention:
    """Removes what people deleted, and what is older than the settings keep.

    Each job is one transaction that holds its row while the files go, so that nobody tries it again meanwhile. A kill
    in between leaves a row without files, which is found again.
    """

    def __init__(self, sessions: sessionmaker[Session], settings: WorkerSettings) -> None:
        """Remove through `sessions` and from the artifacts' directory of the settings."""
        self._sessions = sessions
        self._artifacts = settings.artifacts_dir.resolve()
        self._deleted_for = timedelta(seconds=settings.removal_seconds)
        self._keep_artifacts = _days(settings.keep_artifacts_days)
        self._keep_jobs = _days(settings.keep_jobs_days)
        self._stuck: dict[UUID, float] = {}  # until when each job is left alone

    def remove(self) -> None:
        """Remove a piece of what is to go; raises what the database raises."""
        until = time.monotonic() + _SECONDS
        if self._keep_jobs is not None:
            self._delete_old(self._keep_jobs)
        deleted = Job.deleted_at < func.clock_timestamp() - self._deleted_for
        self._each((deleted,), self._remove_row, until)
        if self._keep_artifacts is not None:
            old = Job.artifacts_removed_at.is_(None), *may_go(self._keep_artifacts)
            self._each(old, self._forget_files, until)

    def _delete_old(self, keep: timedelta) -> None:
        """Delete the oldest jobs as a person would: they are gone to all who ask, and are removed as those are."""
        with self._sessions.begin() as session:
            jobs = session.scalars(_some(*may_go(keep)).with_for_update(skip_locked=True)).all()
            for job in jobs:
                job.delete()
                session.add(_audit(job))
                session.execute(notification(job.id))
                log.info("job_deleted", job=str(job.id), status=job.status)
            session.execute(let_points_go([job.id for job in jobs]))

    def _each(
        self, wanted: Sequence[ColumnElement[bool]], record: Callable[[Session, UUID], None], until: float
    ) -> None:
        """Remove the files of the jobs that are wanted, one by one, and record each; those that cannot be are told."""
        now = time.monotonic()
        self._stuck = {job_id: moment for job_id, moment in self._stuck.items() if moment > now}
        with self._sessions.begin() as session:
            ids = session.scalars(_some(*wanted, Job.id.not_in(self._stuck)).with_only_columns(Job.id)).all()
        if ids and not (self._artifacts / ARTIFACTS_MARK).exists():
            log.error("artifacts_unreachable", directory=str(self._artifacts))  # of a volume that is not mounted
            return
        for job_id in ids:
            if time.monotonic() > until:
                return
            with self._locked(job_id, wanted) as session:
                if session is not None and self._remove_files(job_id):
                    fault_point(FaultPoint.REMOVAL)
                    record(session, job_id)

    @contextmanager
    def _locked(self, job_id: UUID, wanted: Sequence[ColumnElement[bool]]) -> Iterator[Session | None]:
        """Give the transaction that holds the row of a job that is still wanted; None where it is not, or is held."""
        with self._sessions.begin() as session:
            row = select(Job.id).where(Job.id == job_id, *wanted).with_for_update(of=Job, skip_locked=True)
            yield session if session.scalar(row) is not None else None

    def _remove_files(self, job_id: UUID) -> bool:
        """Remove a job's directory; return whether there is none any more."""
        directory = self._artifacts / str(job_id)
        if not directory.exists():
            return True  # it never had one, or the last try came so far
        try:
            shutil.rmtree(directory)
        except OSError as error:
            log.warning("artifacts_not_removed", job=str(job_id), detail=str(error))
            self._stuck[job_id] = time.monotonic() + _STUCK_SECONDS
            return False
        log.info("artifacts_removed", job=str(job_id))
        return True

    @staticmethod
    def _remove_row(session: Session, job_id: UUID) -> None:
        session.execute(delete(Job).where(Job.id == job_id))
        log.info("job_removed", job=str(job_id))

    @staticmethod
    def _forget_files(session: Session, job_id: UUID) -> None:
        session.get_one(Job, job_id).lose_artifacts()
        session.execute(update(Epoch).where(Epoch.job_id == job_id).values(checkpoint=None, checkpoint_sha256=None))


def _some(*wanted: ColumnElement[bool]) -> Select[Job]:
    return select(Job).where(*wanted).order_by(Job.created_at).limit(_PIECE)


def _audit(job: Job) -> AuditEntry:
    """Return the record of what is done in the name of the job's user, in no request of theirs."""
    subject, detail = f"job:{job.id}", {"name": job.name, "status": job.status}
    return AuditEntry(user_id=job.user_id, action="job.delete", subject=subject, request_id="retention", detail=detail)


def _days(number: float | None) -> timedelta | None:
    return None if number is None else timedelta(days=number)
