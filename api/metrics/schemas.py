"""What the API shows of a job's curves; field names are frozen."""

from typing import Literal
from uuid import UUID

from pydantic import BaseModel

from api.jobs.schemas import EpochView
from models.job import Status


class Note(BaseModel):
    """Values of one metric that JSON has no number for: what they are, in how many epochs, the first and the last."""

    metric: str
    value: Literal["NaN", "Infinity", "-Infinity"]
    epochs: int
    first: int
    last: int


class MetricsView(BaseModel):
    """The epochs after the one asked for; `next` is the `after` of the following request.

    A figure that is not a finite number is null, and `notes` say which.
    """

    job_id: UUID
    status: Status
    terminal: bool
    epochs: list[EpochView]
    next: int
    notes: list[Note]
