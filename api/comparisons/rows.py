"""A job as it is read for a comparison: no curve, no matrix, only what stays small."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from api.comparisons.networks import Place
from models.errors import InvalidSpec
from models.presets import Torchvision
from models.spec import JobSpec


@dataclass(frozen=True)
class Evaluated:
    """What is known of a classification's test split; `correct` has a bit per sample, 1 where it was predicted."""

    samples: int
    samples_digest: str
    labels_digest: str
    correct: int


@dataclass(frozen=True)
class Row:
    """A job; `essentials` are those of its result, `tested` those of its predictions, where it has them."""

    id: UUID
    name: str | None
    status: str
    user: str
    spec: dict[str, Any]
    essentials: dict[str, Any] | None
    last_epoch: int | None
    best_epoch: int | None
    tested: Evaluated | None

    @property
    def task(self) -> str:
        """What is learned: the one kind of data set that may lack classes is the table."""
        dataset = self.spec["dataset"]
        return "regression" if dataset["name"] == "table" and dataset.get("classes") is None else "classification"

    @property
    def seed(self) -> int:
        """The seed of a job, or of its first replica."""
        return int(self.spec["training"]["seed"])

    @property
    def replicas(self) -> int:
        """How many trainings the job is."""
        return int(self.spec["training"].get("replicas", 1))

    @cached_property
    def places(self) -> tuple[Place, ...] | None:
        """The layers of the network: those of its spec, or those that a worker counted; None where neither is known."""
        listed = self._listed_places()
        if listed is None and self.essentials is not None:
            return Place.counted(self.essentials["parameters"]["layers"])
        return listed

    def _listed_places(self) -> tuple[Place, ...] | None:
        try:
            spec = JobSpec.model_validate(self.spec)
            summary = spec.summary()
        except (ValidationError, InvalidSpec):
            return None  # of an earlier version of the service, whose specs were others
        if summary is None or isinstance(spec.network, Torchvision):
            return None
        return Place.listed(spec.network.layer_list(spec.dataset.outputs), summary.layers)
