"""How to train, as a person may ask for it: optimiser, schedule, objective, augmentation, precision, early stopping."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from models.dataset_spec import DatasetSpec, TableDataset
from models.errors import FieldError
from models.validation import Strict

MAX_SEED = 2**32 - 1  # of a larger one torch's generator on a CPU takes the low 32 bits: two seeds would be one
MAX_EPOCHS = 100_000
_MAX_REPLICAS = 64

LearningRate = Annotated[float, Field(gt=0, le=1_000)]
Decay = Annotated[float, Field(ge=0, le=1_000)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Epsilon = Annotated[float, Field(gt=0, le=1)]
Factor = Annotated[float, Field(gt=0, le=1)]
EpochNumber = Annotated[int, Field(ge=1, le=MAX_EPOCHS)]


class _Optimizer(Strict):
    learning_rate: LearningRate = 0.01
    weight_decay: Decay = Field(
        default=0.0, description="As in torch.optim, not in the loss; `l2_penalty` is the one that is in the loss."
    )


class Sgd(_Optimizer):
    """Stochastic gradient descent as in torch.optim.SGD."""

    name: Literal["sgd"] = "sgd"
    momentum: Fraction = 0.0
    nesterov: bool = False


class _AdamFamily(_Optimizer):
    learning_rate: LearningRate = 0.001
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    epsilon: Epsilon = 1e-8


class Adam(_AdamFamily):
    """Adam as in torch.optim.Adam; its weight decay is added to the gradient."""

    name: Literal["adam"] = "adam"


class AdamW(_AdamFamily):
    """Adam with decoupled weight decay as in torch.optim.AdamW."""

    name: Literal["adamw"] = "adamw"
    weight_decay: Decay = 0.01


class RmsProp(_Optimizer):
    """RMSprop as in torch.optim.RMSprop."""

    name: Literal["rmsprop"] = "rmsprop"
    smoothing: Fraction = Field(default=0.99, description="torch's `alpha`.")
    momentum: Fraction = 0.0
    epsilon: Epsilon = 1e-8


def _sgd_unless_named(value: Any) -> Any:
    return {"name": "sgd"} | value if isinstance(value, dict) else value


def _any_of(schema: dict[str, Any]) -> None:
    """Say in the JSON schema that `name` may be left out, which a discriminator does not allow."""
    schema.pop("discriminator")
    schema["anyOf"] = schema.pop("oneOf")


OptimizerSpec = Annotated[
    Annotated[Sgd | Adam | AdamW | RmsProp, Field(discriminator="name", json_schema_extra=_any_of)],
    BeforeValidator(_sgd_unless_named),
]


class _WithWarmUp(Strict):
    warmup_epochs: Annotated[int, Field(ge=0, le=MAX_EPOCHS)] = Field(
        default=0, description="The rate rises linearly, step by step, to the optimiser's over so many epochs."
    )


class Constant(_WithWarmUp):
    """The optimiser's learning rate throughout."""

    name: Literal["constant"] = "constant"


class Step(_WithWarmUp):
    """The rate times `factor` after every so many epochs, as in torch.optim.lr_scheduler.StepLR."""

    name: Literal["step"] = "step"
    every: EpochNumber
    factor: Factor = 0.1


class MultiStep(_WithWarmUp):
    """The rate times `factor` after each of the epochs named, as in MultiStepLR."""

    name: Literal["multi_step"] = "multi_step"
    after: list[EpochNumber] = Field(
        min_length=1, max_length=100, description="Epochs as the curves number them, the warm-up counted."
    )
    factor: Factor = 0.1


class Exponential(_WithWarmUp):
    """The rate times `factor` after each epoch, as in ExponentialLR."""

    name: Literal["exponential"] = "exponential"
    factor: Factor


class Cosine(_WithWarmUp):
    """Half a cosine, step by step, from the rate down to `final_fraction` of it (Loshchilov and Hutter, 2017)."""

    name: Literal["cosine"] = "cosine"
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0


class OneCycle(Strict):
    """Up to the optimiser's rate and down again along two half cosines, as in OneCycleLR without momentum cycling."""

    name: Literal["one_cycle"] = "one_cycle"
    rising_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.3
    initial_divisor: Annotated[float, Field(ge=1, le=1e6)] = 25.0
    final_divisor: Annotated[float, Field(ge=1, le=1e9)] = 1e4


Schedule = Annotated[Constant | Step | MultiStep | Exponential | Cosine | OneCycle, Field(discriminator="name")]

StoppingMetric = Literal["validation_loss", "validation_accuracy", "train_loss"]


class EarlyStopping(Strict):
    """Stop when a metric has not improved for a while; the weights of its best epoch are restored."""

    metric: StoppingMetric = "validation_loss"
    patience: Annotated[int, Field(ge=1, le=MAX_EPOCHS)] = Field(
        default=10, description="Epochs without an improvement after which the training stops."
    )
    min_delta: Annotated[float, Field(ge=0, le=1_000)] = Field(
        default=0.0, description="What counts as an improvement must be larger than this."
    )


class RandomCrop(Strict):
    """Cut each image out of its zero-padded self at a random place."""

    padding: Annotated[int, Field(ge=1, le=64)] = 4


class Cutout(Strict):
    """Blacken a square at a random place in each image (DeVries and Taylor, 2017)."""

    size: Annotated[int, Field(ge=1, le=512)] = 8


class ColorJitter(Strict):
    """Brightness, contrast and saturation of each image times a factor drawn from 1 - x to 1 + x."""

    brightness: Annotated[float, Field(ge=0, le=1)] = 0.0
    contrast: Annotated[float, Field(ge=0, le=1)] = 0.0
    saturation: Annotated[float, Field(ge=0, le=1)] = 0.0


class Augmentation(Strict):
    """Random changes of the training images, drawn anew in each epoch, for a whole batch at once on the device."""

    random_crop: RandomCrop | None = None
    horizontal_flip: Annotated[float, Field(ge=0, le=1)] = Field(default=0.0, description="Probability.")
    color_jitter: ColorJitter | None = None
    cutout: Cutout | None = None


Precision = Literal["float32", "tf32", "bfloat16", "float16"]


class TrainingSpec(Strict):
    """How to train."""

    epochs: EpochNumber = 10
    batch_size: Annotated[int, Field(ge=1, le=1_048_576)] = 64
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = Field(
        default=None, description="Chosen at submit and recorded where none is given."
    )
    replicas: Annotated[int, Field(ge=1, le=_MAX_REPLICAS)] = Field(
        default=1,
        description="The spec is trained so many times, each as the single job with its seed: seed, seed + 1, ...; "
        "epochs and result are those of the first, with means, standard deviations and all values beside them. "
        "Not together with early stopping.",
    )
    optimizer: OptimizerSpec = Sgd()
    schedule: Schedule = Constant()
    l2_penalty: Decay = Field(
        default=0.0,
        description="This times the sum of squared weights is added to the loss, and reported apart from it.",
    )
    label_smoothing: Fraction = Field(
        default=0.0, description="In what is minimised; reported losses are without it, so that runs can be compared."
    )
    gradient_clip_norm: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        default=None, description="Gradients longer than this, all parameters together, are scaled down to it."
    )
    early_stopping: EarlyStopping | None = None
    augmentation: Augmentation | None = None
    precision: Precision = "float32"
    deterministic: bool = Field(default=False, description="Refuse operations that differ from run to run.")
    evaluate_before_training: bool = Field(default=False, description="Epoch 0 is the untrained network.")

    @property
    def seeds(self) -> range:
        """The seeds of the replicas, in order; the spec must be resolved."""
        assert self.seed is not None, "a resolved spec has a seed"
        return range(self.seed, self.seed + self.replicas)

    def conflicts(self, dataset: DatasetSpec) -> Iterator[FieldError]:
        """Yield what cannot be together: fields with each other, or with the data."""
        yield from self._optimizer_conflicts()
        yield from self._schedule_conflicts()
        yield from self._stopping_conflicts(dataset)
        yield from self._replica_conflicts()
        if self.label_smoothing and dataset.task == "regression":
            yield _conflict("label_smoothing", "A regression has no labels to smooth.")
        if self.augmentation is not None:
            yield from _augmentation_conflicts(self.augmentation, dataset)

    def _optimizer_conflicts(self) -> Iterator[FieldError]:
        if isinstance(self.optimizer, Sgd) and self.optimizer.nesterov and not self.optimizer.momentum:
            yield _conflict("optimizer.nesterov", "Nesterov's variant needs a momentum above 0.")

    def _schedule_conflicts(self) -> Iterator[FieldError]:
        if isinstance(self.schedule, _WithWarmUp) and self.schedule.warmup_epochs >= self.epochs:
            yield _conflict("schedule.warmup_epochs", f"The warm-up must be shorter than the {self.epochs} epochs.")
        if isinstance(self.schedule, MultiStep) and min(self.schedule.after) < self.schedule.warmup_epochs:
            yield _conflict("schedule.after", "An epoch named here lies in the warm-up, where the rate rises.")

    def _stopping_conflicts(self, dataset: DatasetSpec) -> Iterator[FieldError]:
        if self.early_stopping is None:
            return
        metric = self.early_stopping.metric
        if metric == "validation_accuracy" and dataset.task == "regression":
            yield _conflict("early_stopping.metric", "A regression has no accuracy: use validation_loss.")
        elif metric != "train_loss" and dataset.validation == 0:
            yield _conflict("early_stopping.metric", f"{metric} needs a validation split, and dataset.validation is 0.")

    def _replica_conflicts(self) -> Iterator[FieldError]:
        if self.replicas > 1 and self.early_stopping is not None:
            message = "Early stopping would end each replica at another epoch: use one of the two, replicas or it."
            yield _conflict("replicas", message)
        if self.seed is not None and self.seed + self.replicas - 1 > MAX_SEED:
            message = f"The seeds of the {self.replicas} replicas count up from it, and the last may be {MAX_SEED:,}."
            yield _conflict("seed", message)


def _augmentation_conflicts(augmentation: Augmentation, dataset: DatasetSpec) -> Iterator[FieldError]:
    if isinstance(dataset, TableDataset):
        yield _conflict("augmentation", "Only images are augmented; a table has none.")
        return
    channels, *sides = dataset.input_shape
    crop = augmentation.random_crop
    if crop is not None and crop.padding >= min(sides):
        message = (
            f"The padding must be smaller than the image ({min(sides)} pixels), or some are cut out of nothing else."
        )
        yield _conflict("augmentation.random_crop.padding", message)
    if augmentation.cutout is not None and augmentation.cutout.size >= min(sides):
        yield _conflict("augmentation.cutout.size", f"The square must be smaller than the image ({min(sides)} pixels).")
    jitter = augmentation.color_jitter
    if jitter is not None and jitter.saturation and channels != 3:
        yield _conflict("augmentation.color_jitter.saturation", f"{dataset.name} is grey: it has no saturation.")


def _conflict(field: str, message: str) -> FieldError:
    return FieldError(f"training.{field}", message, "conflict")
