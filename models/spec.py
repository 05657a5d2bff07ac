"""The job spec: what a person may ask for, every default, and the checks that need more than one field."""

import secrets
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from models.dataset_spec import DatasetChoice
from models.demand import CUDA_CONTEXT_BYTES, GIB
from models.errors import FieldError, InvalidSpec
from models.memory import refuse_what_no_gpu_holds
from models.network import LayerDoesNotFit, NetworkSummary, NetworkTooLarge, refuse_final_softmax, summarise
from models.presets import Network, Sequential, Torchvision
from models.reasons import FAILURES, RETRIED
from models.training_spec import TrainingSpec
from models.validation import MetadataKey, MetadataValue, Name, QueueName, Strict, Tag

_CHOSEN_SEED_BITS = 31
DEFAULT_QUEUE = "default"
MAX_PRIORITY = 100
_MAX_GPUS = 64
MAX_TAGS = 20
_MAX_GPU_MEMORY_GB = 1_024
_LEAST_MEMORY_GB = 0.5  # torch takes 0.2 to 0.4 for itself
_MAX_MEMORY_GB = 65_536
_MAX_DEPENDENCIES = 50
_MAX_RETRIES = 10

Priority = Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)]
_GpuMemory = Annotated[float, Field(gt=CUDA_CONTEXT_BYTES / GIB, le=_MAX_GPU_MEMORY_GB)]
_Memory = Annotated[float, Field(ge=_LEAST_MEMORY_GB, le=_MAX_MEMORY_GB)]
JobReference = Annotated[UUID, Field(strict=False)]  # strict takes a UUID alone, and JSON has none


class ResourcesSpec(Strict):
    """Where to run, and for how long at most."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    gpus: Annotated[int, Field(ge=1, le=_MAX_GPUS)] = Field(
        default=1, description="GPUs of one host, where it runs on GPUs; several train as one."
    )
    gpu_memory_gb: _GpuMemory | Literal["auto"] = Field(
        default="auto",
        description="GiB of each GPU that the job may need, the half that CUDA itself takes included, so that others "
        "can share it; `auto` takes what like jobs were measured at, and a GPU alone until one was.",
    )
    exclusive: bool = Field(default=False, description="Nothing else on its GPUs while it runs.")
    time_limit_seconds: Annotated[int, Field(ge=1, le=2_592_000)] = 86_400
    memory_gb: _Memory | None = Field(
        default=None,
        description="GiB of the host's memory that the job's processes may have together; mapped data sets are not "
        "counted. Beyond it the job fails as `out_of_memory`. A worker may allow less.",
    )

    def conflicts(self, training: TrainingSpec) -> Iterator[FieldError]:
        """Yield what cannot be together: fields with each other, or with the training."""
        if self.device == "cpu":
            yield from self._gpu_wishes_of_the_cpu()
            return
        if self.gpus > 1 and training.replicas > 1:
            message = f"Replicas train on one GPU together, and resources.gpus is {self.gpus}: use one of the two."
            yield FieldError("training.replicas", message, "conflict")
        if training.batch_size % self.gpus:
            message = f"Each of the {self.gpus} GPUs takes an equal part of a batch: choose a multiple of {self.gpus}."
            yield FieldError("training.batch_size", message, "conflict")

    def _gpu_wishes_of_the_cpu(self) -> Iterator[FieldError]:
        for name in ("gpus", "gpu_memory_gb", "exclusive"):
            if getattr(self, name) != type(self).model_fields[name].default:
                message = "The job is for the CPU, and this is about GPUs: leave it out, or choose another device."
                yield FieldError(f"resources.{name}", message, "conflict")


def _known_failures(names: list[str]) -> list[str]:
    for name in names:
        if name not in FAILURES:
            raise PydanticCustomError(
                "unknown_reason", "There is no such failure; there is {names}", {"names": ", ".join(FAILURES)}
            )
    return [name for name in FAILURES if name in names]


_Failures = Annotated[
    list[Annotated[str, Field(json_schema_extra={"enum": list(FAILURES)})]],
    Field(max_length=len(FAILURES)),
    AfterValidator(_known_failures),
]


class RetrySpec(Strict):
    """Which failures are followed by another attempt, from the last checkpoint, and how often."""

    limit: Annotated[int, Field(ge=0, le=_MAX_RETRIES)] | None = Field(
        default=None, description="Attempts after the first one, in all; null: as many as the service gives."
    )
    on: _Failures | None = Field(
        default=None, description="The reasons that are tried again; null: those that the job has no part in."
    )

    def covers(self, reason: str) -> bool:
        """Tell whether an attempt that ended for this reason is to be followed by another one."""
        return reason in (RETRIED if self.on is None else self.on)


class InitialCheckpoint(Strict):
    """Where the weights come from in place of random ones: a checkpoint of another job with the same network."""

    job: JobReference
    which: Literal["best", "last"] = "best"


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
    retry: RetrySpec = RetrySpec()
    queue: QueueName = Field(default=DEFAULT_QUEUE, description="Workers each serve a list of queues.")
    priority: Priority = Field(default=0, description="Higher runs first; an admin bounds what members may ask for.")
    depends_on: Annotated[list[JobReference], Field(max_length=_MAX_DEPENDENCIES, default_factory=list)] = Field(
        description="Jobs that have to succeed before this one starts; it fails where one of them does not."
    )
    initial_checkpoint: InitialCheckpoint | None = None
    tags: Annotated[list[Tag], Field(max_length=MAX_TAGS, default_factory=list)]
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
        conflicts = [*self.training.conflicts(self.dataset), *self.resources.conflicts(self.training)]
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
