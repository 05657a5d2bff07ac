"""The scores of each job, its last and its best epoch and its test figures: one row, kept in step with the epochs'."""

from collections.abc import Iterable
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Index, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import InstrumentedAttribute, Mapped, Session, mapped_column

from models.base import Base

METRICS = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "learning_rate", "seconds")


class Scores(Base):
    """What lists are filtered and sorted by; a figure that is not a finite number is null.

    The best epoch is the trained one (epoch > 0) of the highest merit, the earliest of equals. `revision` counts the
    recordings of epochs: it is another one whenever a curve is.
    """

    __tablename__ = "scores"
    __table_args__ = (
        Index(
            "ix_scores_best_validation_accuracy", text("best_validation_accuracy DESC NULLS LAST"), text("job_id DESC")
        ),
    )

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    revision: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    last_epoch: Mapped[int | None]
    last_train_loss: Mapped[float | None]
    last_train_accuracy: Mapped[float | None]
    last_validation_loss: Mapped[float | None]
    last_validation_accuracy: Mapped[float | None]
    last_learning_rate: Mapped[float | None]
    last_seconds: Mapped[float | None]
    best_epoch: Mapped[int | None]
    best_train_loss: Mapped[float | None]
    best_train_accuracy: Mapped[float | None]
    best_validation_loss: Mapped[float | None]
    best_validation_accuracy: Mapped[float | None]
    best_learning_rate: Mapped[float | None]
    best_seconds: Mapped[float | None]
    best_merit: Mapped[float | None]
    test_accuracy: Mapped[float | None]
    test_loss: Mapped[float | None]


def score_columns() -> dict[str, InstrumentedAttribute[Any]]:
    """Return the columns of Scores by the names that people ask for: `last.*`, `best.*` and `test.*`."""
    names = [f"{which}.{figure}" for which in ("last", "best") for figure in ("epoch", *METRICS)]
    return {name: getattr(Scores, name.replace(".", "_")) for name in (*names, "test.accuracy", "test.loss")}


def score_epoch(session: Session, job_id: UUID, epoch: int, *, others_went: bool = False) -> None:
    """Bring the scores up to date with an epoch whose row was just written, in the same transaction.

    The epochs are read again only where the best one was recorded anew and came out worse, or where later ones went;
    else the cost does not depend on their number.
    """
    taken = session.execute(_TAKE_INTO_ACCOUNT, {"job": job_id, "epoch": epoch}).first()
    if taken is None or others_went:
        session.execute(_READ_AGAIN, {"job": job_id})


def score_test(session: Session, job_id: UUID, *, accuracy: float | None, loss: float) -> None:
    """Keep the figures of the test split; a regression has no accuracy."""
    figures = {"test_accuracy": accuracy, "test_loss": loss}
    statement = insert(Scores).values(job_id=job_id, **figures)
    session.execute(statement.on_conflict_do_update(index_elements=["job_id"], set_=figures))


def _finite(value: str) -> str:
    """Return the value, or null where it is infinite or not a number (which Postgres ranks above all numbers)."""
    return f"CASE WHEN {value} > '-Infinity' AND {value} < 'Infinity' THEN {value} END"


# What epochs are ranked by: the accuracy, of a regression minus the loss; of the validation split where there is one.
_MERIT = _finite("coalesce(validation_accuracy, train_accuracy, -coalesce(validation_loss, train_loss))")
_OF_AN_EPOCH = ", ".join(["epoch", *map(_finite, METRICS)])


def _columns(which: Literal["last", "best"]) -> list[str]:
    return [f"{which}_{figure}" for figure in ("epoch", *METRICS, *(["merit"] if which == "best" else []))]


def _where(condition: str, columns: Iterable[str]) -> str:
    """Return the assignments that take the new row's columns where a condition holds."""
    return ", ".join(f"{name} = CASE WHEN {condition} THEN excluded.{name} ELSE scores.{name} END" for name in columns)


_LAST, _BEST = _columns("last"), _columns("best")
_IS_LAST = "coalesce(excluded.last_epoch >= scores.last_epoch, true)"
# The best there is now; it may be the best one itself, recorded again.
_IS_BEST = """(scores.best_epoch IS NULL OR
    (coalesce(excluded.best_merit, '-Infinity'), -excluded.best_epoch)
        >= (coalesce(scores.best_merit, '-Infinity'), -scores.best_epoch))"""

# SQL as text: SQLAlchemy took longer to go through these expressions than Postgres to execute them.
# No row comes back where all epochs must be read to know the best.
_TAKE_INTO_ACCOUNT = text(
    f"""
    INSERT INTO scores (job_id, revision, {", ".join([*_LAST, *_BEST])})
    SELECT :job, 1, last.*, best.*
    FROM (SELECT {_OF_AN_EPOCH} FROM epochs WHERE job_id = :job AND epoch = :epoch) AS last
    LEFT JOIN (
        SELECT {_OF_AN_EPOCH}, {_MERIT} FROM epochs WHERE job_id = :job AND epoch = :epoch AND epoch > 0
    ) AS best ON true
    ON CONFLICT (job_id) DO UPDATE
    SET revision = scores.revision + 1, {_where(_IS_LAST, _LAST)}, {_where(_IS_BEST, _BEST)}
    WHERE scores.best_epoch IS DISTINCT FROM :epoch OR {_IS_BEST}
    RETURNING job_id
    """  # noqa: S608 - names of this file
)
_READ_AGAIN = text(
    f"""
    UPDATE scores
    SET revision = revision + 1, ({", ".join(_LAST)}) = (
            SELECT {_OF_AN_EPOCH} FROM epochs WHERE job_id = :job ORDER BY epoch DESC LIMIT 1
        ), ({", ".join(_BEST)}) = (
            SELECT {_OF_AN_EPOCH}, {_MERIT} AS merit FROM epochs WHERE job_id = :job AND epoch > 0
            ORDER BY merit DESC NULLS LAST, epoch LIMIT 1
        )
    WHERE job_id = :job
    """  # noqa: S608 - names of this file
)
