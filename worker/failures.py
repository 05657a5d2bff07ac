"""Why a job cannot succeed: what was raised, as the reason and the sentence that its user is told."""

import traceback

import torch

from models.errors import TrainyardError
from models.reasons import OUT_OF_MEMORY, RUNNER_ERROR
from worker.messages import Failed

# What CUDA and its libraries say where torch's own allocator is not asked.
_NO_GPU_MEMORY = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
# What torch says with plain errors of Python, by words of their message.
_REASONS = {
    "DefaultCPUAllocator: can't allocate memory": OUT_OF_MEMORY,
    **dict.fromkeys(_NO_GPU_MEMORY, OUT_OF_MEMORY),
    "does not have a deterministic implementation": "not_deterministic",
    "Expected more than 1 value per channel when training": "batch_of_one",
}


def failure_of(error: Exception) -> Failed:
    """Return what is told of an error; one that is not of the domain is printed with its traceback."""
    if isinstance(error, TrainyardError):
        return Failed(reason=error.code, message=str(error))
    traceback.print_exception(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        message = f"The memory did not suffice: {error}"
        return Failed(reason=OUT_OF_MEMORY, message=message, cuda=_is_cudas(error))
    return Failed(reason=_reason_of(error), message=f"{type(error).__name__}: {error}", cuda=_is_cudas(error))


def _reason_of(error: Exception) -> str:
    return next((reason for words, reason in _REASONS.items() if words in str(error)), RUNNER_ERROR)


def _is_cudas(error: Exception) -> bool:
    """Tell whether a GPU had no more memory; torch says it with an error of its own for GPUs alone."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _NO_GPU_MEMORY)
