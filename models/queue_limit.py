"""How many jobs of one user may wait: read in one way by whoever puts a job into the queue."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import TextClause, text

from models.errors import QueueLimit
from models.job import Status


@dataclass(frozen=True)
class QueueRoom:
    """How many jobs of a user wait, and how many may."""

    waiting: int
    most: int

    @property
    def left(self) -> int:
        """How many more may wait."""
        return max(0, self.most - self.waiting)

    def require(self, jobs: int = 1) -> None:
        """Raise QueueLimit where there is no room for so many more."""
        if jobs > self.left:
            raise self.refusal(jobs)

    def refusal(self, jobs: int = 1) -> QueueLimit:
        """Return the error that says that there is no room for so many more."""
        return QueueLimit(
            f"{self.waiting:,} jobs of this user wait, and {self.most:,} may (max_queued): "
            f"there is no room for {jobs:,} more."
        )


def room_sql(user_id: str, default: str) -> str:
    """Return the SQL of `waiting` and `most`, of the user and with the default limit that these placeholders stand for.

    It locks nothing: whoever counts and stores in one statement may exceed the limit by what other requests of the
    same user store within those few milliseconds, one job for each of the API's connections, and by no more.
    """
    return f"""
        SELECT count(*) AS waiting,
            coalesce((SELECT max_queued FROM shares WHERE shares.user_id = {user_id}), {default}) AS most
        FROM jobs WHERE jobs.user_id = {user_id} AND jobs.status = '{Status.QUEUED}'
    """  # noqa: S608 - names of this program


def room_of(user_id: UUID, *, default: int) -> TextClause:
    """Return the statement of a user's `waiting` and `most`, the fields of a QueueRoom."""
    return text(room_sql(":user_id", ":most")).bindparams(user_id=user_id, most=default)
