"""The precision that a job computes in, and how torch is told of it."""

import os
from contextlib import AbstractContextManager, nullcontext

import torch
from torch.amp import GradScaler

from models.training_spec import Precision, TrainingSpec

_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def prepare_precision(training: TrainingSpec) -> None:
    """Set what torch keeps for the whole process; to be called before CUDA starts.

    TF32 rounds the factors of a product to 10 bits of mantissa, which torch allows convolutions by itself: float32 is
    float32 here unless the spec says otherwise. A processor without TF32 computes it in float32.
    """
    tf32 = training.precision == "tf32"
    # After these two, the older and the newer of torch's ways to ask for its settings agree; mixed, they raise.
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    torch.use_deterministic_algorithms(training.deterministic)
    if training.deterministic:
        torch.backends.cudnn.benchmark = False
        # cuBLAS reads it when CUDA starts, which is in this process; without it torch refuses its products.
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # noqa: TID251


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return the context of a forward pass: in half precision the weights stay float32, and are cast per operation."""
    if precision not in _AUTOCAST:
        return nullcontext()
    return torch.autocast(device.type, _AUTOCAST[precision])


def gradient_scaler(precision: Precision, device: torch.device) -> GradScaler:
    """Return what multiplies the loss so that float16 gradients do not vanish; for other precisions it does nothing."""
    return GradScaler(device.type, enabled=precision == "float16")
