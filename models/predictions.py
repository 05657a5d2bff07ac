"""What a job's network predicts of each test sample: one row per job, an array per figure."""

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, REAL, ColumnElement, Double, ForeignKey, Integer, LargeBinary, SmallInteger, cast, literal
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


class Predictions(Base):
    """The predictions of a succeeded job's first replica, in the order of the test split; never changed.

    A classification has `labels`, `predictions` and `probabilities` (of the predicted class), a regression has
    `targets` and `estimates` on the target's own scale. `indices` is where the samples stand in the data that they were
    held out of; null where the test split was set apart by itself, and they are 0, 1, ....
    """

    __tablename__ = "predictions"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int]
    samples: Mapped[int]
    samples_digest: Mapped[str]  # equal for equal samples in equal order
    indices: Mapped[list[int] | None] = mapped_column(ARRAY(Integer))
    labels: Mapped[list[int] | None] = mapped_column(ARRAY(SmallInteger))
    predictions: Mapped[list[int] | None] = mapped_column(ARRAY(SmallInteger))
    probabilities: Mapped[list[float] | None] = mapped_column(ARRAY(REAL))
    targets: Mapped[list[float] | None] = mapped_column(ARRAY(Double))
    estimates: Mapped[list[float] | None] = mapped_column(ARRAY(Double))
    # One bit per sample, so that fifty jobs are compared in an instant; null in a regression.
    correct: Mapped[bytes | None] = mapped_column(LargeBinary)

    @classmethod
    def of(cls, job_id: UUID, attempt: int, **predicted: Any) -> "Predictions":
        """Return the row of what a runner predicted: the digest, and a list, or None, for each of the arrays."""
        labels, predictions = predicted["labels"], predicted["predictions"]
        return cls(
            job_id=job_id,
            attempt=attempt,
            samples=len(predicted["targets"] if labels is None else labels),
            samples_digest=predicted.pop("samples_digest"),
            correct=None if labels is None else correct_bits(labels, predictions),
            **{name: _array(name, values) for name, values in predicted.items() if values is not None},
        )


def _array(name: str, values: Sequence[float]) -> ColumnElement[Any]:
    """Return the values as Postgres reads an array: psycopg takes ten times as long to write a list of 100,000."""
    text = json.dumps(values)[1:-1]
    return cast(literal(f"{{{text}}}"), Predictions.__table__.c[name].type)


def correct_bits(labels: Sequence[int], predictions: Sequence[int]) -> bytes:
    """Return a bit per sample, 1 where the prediction is the label: a big-endian number, its lowest bit the last."""
    digits = "".join("1" if label == said else "0" for label, said in zip(labels, predictions, strict=True))
    return int(digits or "0", 2).to_bytes((len(digits) + 7) // 8, "big")
