"""The optimisers of a spec, built over exactly the parameters of one network."""

from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from models import training_spec as spec
from models.training_spec import OptimizerSpec


def build_optimizer(network: nn.Module, wanted: OptimizerSpec, *, fused: bool | None = None) -> Optimizer:
    """Return the torch optimiser that the spec names.

    On a GPU it can be recorded in a CUDA graph, and has torch's fused kernels where there are any, or where `fused`
    says so: they read a learning rate from the device, and under loss scaling they alone skip a step that overflowed
    without asking the device first. They round differently, so torch chooses by itself on a CPU.
    """
    on_gpu = any(parameter.is_cuda for parameter in network.parameters())
    if fused is None:
        fused = on_gpu
    common: dict[str, Any] = {"lr": wanted.learning_rate, "weight_decay": wanted.weight_decay}
    if isinstance(wanted, spec.RmsProp):
        return RMSprop(
            network.parameters(),
            alpha=wanted.smoothing,
            momentum=wanted.momentum,
            eps=wanted.epsilon,
            capturable=on_gpu,
            **common,
        )
    common["fused"] = True if fused else None
    if isinstance(wanted, spec.Sgd):
        return SGD(network.parameters(), momentum=wanted.momentum, nesterov=wanted.nesterov, **common)
    kind = AdamW if isinstance(wanted, spec.AdamW) else Adam
    return kind(
        network.parameters(), betas=(wanted.beta1, wanted.beta2), eps=wanted.epsilon, capturable=on_gpu, **common
    )
