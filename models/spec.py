"""The job spec: what a person may ask for, every default, and the checks that need more than one field."""

import secrets
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from models.datasets import DATASETS, DatasetFacts, DatasetName
from models.errors import FieldError, InvalidSpec
from models.network import LayerDoesNotFit, NetworkSummary, NetworkTooLarge, Shape, summarise
from models.presets import Network, Sequential
from models.validation import Name, Strict, Tag

MAX_SEED = 2**53 - 1  # the largest integer that every JSON reader keeps exactly
_CHOSEN_SEED_BITS = 31


def _validation_split(value: Any) -> Any:
    if value == "test" or (type(value) in (int, float) and (value == 0 or 0.001 <= value <= 0.9)):
        return value if value == "test" else float(value)
    raise PydanticCustomError("validation_split", 'Input should be 0, a fraction from 0.001 to 0.9, or "test"')


ValidationSplit = Annotated[
    float | Literal["test"],
    BeforeValidator(_validation_split),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0, "maximum": 0.9}, {"const": "test"}]}),
]


class DatasetSpec(Strict):
    """Which data to train on, and what is held out of them."""

    name: DatasetName
    resize: Annotated[int, Field(ge=4, le=512)] | None = Field(
        default=None, description="Side length in pixels, applied once when the images are decoded."
    )
    validation: ValidationSplit = Field(
        default=0.1,
        description='Fraction of the training split held out, seeded and stratified; or "test": the test split.',
    )

    @property
    def facts(self) -> DatasetFacts:
        """What is known of the data set by its name."""
        return DATASETS[self.name]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """The shape of one sample as the network sees it: (channels, height, width)."""
        return self.facts.input_shape(self.resize)


class Sgd(Strict):
    """Stochastic gradient descent as in torch.optim.SGD."""

    name: Literal["sgd"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0, le=1_000)] = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, Field(ge=0, le=1_000)] = 0.0


class TrainingSpec(Strict):
    """How to train."""

    epochs: Annotated[int, Field(ge=1, le=100_000)] = 10
    batch_size: Annotated[int, Field(ge=1, le=1_048_576)] = 64
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = Field(
        default=None, description="Chosen at submit and recorded where none is given."
    )
    optimizer: Sgd = Sgd()
    l2_penalty: Annotated[float, Field(ge=0, le=1_000)] = Field(
        default=0.0,
        description="This times the sum of squared weights is added to the loss, and reported apart from it.",
    )


class ResourcesSpec(Strict):
    """Where to run, and for how long at most."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    time_limit_seconds: Annotated[int, Field(ge=1, le=2_592_000)] = 86_400


class JobSpec(Strict):
    """A whole training job."""

    name: Name | None = None
    dataset: DatasetSpec
    network: Network
    training: TrainingSpec = TrainingSpec()
    resources: ResourcesSpec = ResourcesSpec()
    tags: Annotated[list[Tag], Field(max_length=20, default_factory=list)]

    def summary(self) -> NetworkSummary:
        """Return the network's shapes, parameters and MACs on this data; raise InvalidSpec naming what does not fit."""
        try:
            return _summarise(self)
        except LayerDoesNotFit as error:
            is_list = isinstance(self.network, Sequential)
            loc = f"network.layers.{error.index}" if is_list else "network"
            raise InvalidSpec([FieldError(loc, str(error), error.code)]) from None
        except NetworkTooLarge as error:
            raise InvalidSpec([FieldError("network", str(error), error.code)]) from None

    def resolved(self) -> "JobSpec":
        """Return the spec with a seed chosen where none was given; raise InvalidSpec as `summary`."""
        self.summary()
        seed = self.training.seed if self.training.seed is not None else secrets.randbits(_CHOSEN_SEED_BITS)
        return self.model_copy(update={"training": self.training.model_copy(update={"seed": seed})})

    def as_json(self) -> dict[str, Any]:
        """Return the spec as it is stored and shown."""
        return self.model_dump(mode="json")


def _summarise(spec: JobSpec) -> NetworkSummary:
    classes = len(spec.dataset.facts.classes)
    input_shape: Shape = spec.dataset.input_shape
    layers = spec.network.layer_list(classes)
    summary = summarise(layers, input_shape)
    if summary.output_shape != (classes,):
        last = len(layers) - 1
        raise LayerDoesNotFit(
            last,
            f"layer {last} ({layers[last].kind}) puts out {summary.output_shape}, "
            f"but {spec.dataset.name} has {classes} classes and needs ({classes},)",
        )
    return summary
