"""The job spec: what a person may ask for, every default, and the checks that need more than one field."""

import secrets
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from models.dataset_spec import DatasetChoice
from models.errors import FieldError, InvalidSpec
from models.memory import refuse_what_no_gpu_holds
from models.network import LayerDoesNotFit, NetworkSummary, NetworkTooLarge, refuse_final_softmax, summarise
from models.presets import Network, Sequential, Torchvision
from models.training_spec import TrainingSpec
from models.validation import MetadataKey, MetadataValue, Name, Strict, Tag

_CHOSEN_SEED_BITS = 31


class ResourcesSpec(Strict):
    """Where to run, and for how long at most."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    time_limit_seconds: Annotated[int, Field(ge=1, le=2_592_000)] = 86_400


class JobSpec(Strict):
    """A whole training job."""

    name: Name | None = None
    recipe: Name | None = Field(
        default=None, description="The recipe that the spec was made from, if network and data are its."
    )
    dataset: DatasetChoice
    network: Network
    training: TrainingSpec = TrainingSpec()
    resources: ResourcesSpec = ResourcesSpec()
    tags: Annotated[list[Tag], Field(max_length=20, default_factory=list)]
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16, default_factory=dict)] = Field(
        description="The submitter's own pairs, found again by `GET /jobs?metadata[key]=value`."
    )

    def summary(self) -> NetworkSummary | None:
        """Return the network's shapes, parameters and MACs on this data; None where only building it can tell.

        Raises InvalidSpec naming the layer that does not fit.
        """
        try:
            return _summarise(self)
        except LayerDoesNotFit as error:
            loc = f"network.layers.{error.loc}" if isinstance(self.network, Sequential) else "network"
            raise InvalidSpec([FieldError(loc, str(error), error.code)]) from None
        except NetworkTooLarge as error:
            raise InvalidSpec([FieldError("network", str(error), error.code)]) from None

    def resolved(self, summary_of: Callable[["JobSpec"], NetworkSummary | None] = summary) -> "JobSpec":
        """Return the spec with a seed chosen where none was given; raise InvalidSpec for what cannot be run.

        `summary_of` gives what `summary` does, for who has it already.
        """
        conflicts = list(self.training.conflicts(self.dataset))
        if conflicts:
            raise InvalidSpec(conflicts)
        if (summary := summary_of(self)) is not None:
            refuse_what_no_gpu_holds(summary, self.training, self.dataset)
        seed = self.training.seed if self.training.seed is not None else secrets.randbits(_CHOSEN_SEED_BITS)
        return self.model_copy(update={"training": self.training.model_copy(update={"seed": seed})})

    def as_json(self) -> dict[str, Any]:
        """Return the spec as it is stored and shown."""
        return self.model_dump(mode="json")


def _summarise(spec: JobSpec) -> NetworkSummary | None:
    dataset = spec.dataset
    if isinstance(spec.network, Torchvision):
        spec.network.require_fits(dataset.input_shape)
        return None
    layers = spec.network.layer_list(dataset.outputs)
    summary = summarise(layers, dataset.input_shape)
    if summary.output_shape != (dataset.outputs,):
        last = len(layers) - 1
        needed = (
            f"{dataset.name} has {dataset.outputs} classes" if dataset.class_names else "a regression has one output"
        )
        raise LayerDoesNotFit(
            last,
            f"layer {last} ({layers[last].kind}) puts out {summary.output_shape}, "
            f"but {needed} and needs ({dataset.outputs},)",
        )
    refuse_final_softmax(layers, dataset.task)
    return summary
