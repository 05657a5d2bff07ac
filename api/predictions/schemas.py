"""What the API shows of a job's predictions; field names are frozen."""

from typing import Literal
from uuid import UUID

from pydantic import BaseModel, Field

from models.datasets import Task


class PredictionView(BaseModel):
    """One test sample.

    In a classification `label` and `prediction` are places in `classes`, and `probability` is the softmax of the
    predicted class; in a regression they are numbers on the target's own scale, and `probability` is null.
    """

    index: int
    label: float
    prediction: float
    probability: float | None


class PredictionPage(BaseModel):
    """Predictions of the test split with the final weights, those of the first replica where there are several.

    `index` is a sample's place in the test split of the data set. Where that was held out of a table it is the row,
    from 0, and where it was held out of train/ the place of the image, class by class and by file name. Jobs with the
    same `samples_digest` were tested on the same samples, in the same order. `next` is the `after` of the following
    page, null at the end.
    """

    job_id: UUID
    task: Task
    classes: list[str]
    samples: int = Field(description="Of the whole test split.")
    samples_digest: str
    items: list[PredictionView]
    next: int | None


Sort = Literal["index", "probability", "-probability"]
