"""The memory that a training needs at the least, from its spec: what no GPU can hold is refused at submit."""

import math

from models.dataset_spec import DatasetSpec, NamedDataset
from models.errors import FieldError, InvalidSpec
from models.network import NetworkSummary
from models.training_spec import RmsProp, Sgd, TrainingSpec

# Of AMD's Instinct MI455X (2026, 432 GB of HBM4), the largest of a single GPU; NVIDIA's B300 and AMD's MI355X: 288 GB.
MAX_TRAINING_BYTES = 432 * 2**30
_FLOAT32 = 4
_HALF = 2  # what operations put out under autocast


def bytes_at_least(network: NetworkSummary, training: TrainingSpec, dataset: DatasetSpec) -> int:
    """Return how many bytes stand in memory at once in every training step of one replica.

    They are weights, gradients and the optimiser's state, in float32, and the largest tensor of one batch. A real
    training needs several times as much: all activations are kept for the backward pass, and libraries have buffers.
    """
    return _for_parameters(network, training) + _for_batch(network, training, dataset)


def refuse_what_no_gpu_holds(network: NetworkSummary, training: TrainingSpec, dataset: DatasetSpec) -> None:
    """Raise InvalidSpec naming the batch size, or the network where already one sample is too much."""
    needed = bytes_at_least(network, training, dataset)
    if needed <= MAX_TRAINING_BYTES:
        return
    one_sample = training.model_copy(update={"batch_size": 1})
    is_batch = bytes_at_least(network, one_sample, dataset) <= MAX_TRAINING_BYTES
    message = (
        f"A training step needs at least {needed / 2**30:,.0f} GiB of memory ({needed:,} bytes), and no GPU has more "
        f"than {MAX_TRAINING_BYTES / 2**30:,.0f} GiB."
    )
    raise InvalidSpec([FieldError("training.batch_size" if is_batch else "network", message, "memory_exceeded")])


def _for_parameters(network: NetworkSummary, training: TrainingSpec) -> int:
    return network.parameters * _FLOAT32 * (2 + _optimizer_slots(training))


def _optimizer_slots(training: TrainingSpec) -> int:
    """Return how many numbers the optimiser keeps for each parameter, as torch.optim does it."""
    match training.optimizer:
        case Sgd(momentum=momentum):
            return int(momentum > 0)
        case RmsProp(momentum=momentum):
            return 1 + int(momentum > 0)
        case _:
            return 2


def _for_batch(network: NetworkSummary, training: TrainingSpec, dataset: DatasetSpec) -> int:
    """Return the bytes of the largest tensor; inputs are float32, and one layer may put out what it was given."""
    input_bytes = math.prod(dataset.input_shape) * _FLOAT32
    width = _FLOAT32 if training.precision in ("float32", "tf32") else _HALF
    largest = max((math.prod(place.output_shape) for place in network.places()), default=0)
    return _samples_of_a_batch(training, dataset) * max(input_bytes, largest * width)


def _samples_of_a_batch(training: TrainingSpec, dataset: DatasetSpec) -> int:
    """Return how many samples a full batch has for certain: of data of one's own, one."""
    if not isinstance(dataset, NamedDataset):
        return 1
    held_out = 0.0 if dataset.validation == "test" else dataset.validation
    return min(training.batch_size, math.floor(dataset.facts.train_samples * (1 - held_out)))
