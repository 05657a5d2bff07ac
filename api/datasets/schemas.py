"""What the API shows of a data set."""

from typing import Any

from pydantic import BaseModel

from models.datasets import Task


class Samples(BaseModel):
    """How many samples there are in each split, as published; validation is held out of the training split."""

    train: int
    test: int


class Normalization(BaseModel):
    """Mean and standard deviation per channel, of pixels scaled to 0..1, by which every image is normalised."""

    mean: list[float]
    std: list[float]


class FileView(BaseModel):
    """A file as its publishers offer it; the MD5 is the one listed for it."""

    name: str
    md5: str


class DatasetView(BaseModel):
    """A data set; what is null follows from the spec (`images`, `table`) and is in no registry.

    `shape` is (channels, height, width) before a resize. `placing` says how its files reach the workers; `<datasets>`
    in it is the workers' data set directory. `example` is the `dataset` of a job's spec.
    """

    name: str
    title: str
    task: Task | None
    shape: list[int] | None
    classes: list[str] | None
    samples: Samples | None
    normalization: Normalization | None
    source: str | None
    licence: str | None
    files: list[FileView]
    placing: str
    example: dict[str, Any]


class DatasetList(BaseModel):
    """All data sets: those by name first, then data of one's own."""

    items: list[DatasetView]
