"""Everything needed to go on training: one `TrainState`, saved and loaded whole."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer

from models.network import NetworkSummary
from models.result import EpochMetrics
from models.spec import JobSpec, Sgd
from worker.networks import build

_EVALUATION_SAMPLES = 1_000
_EVALUATION_VALUES = 2**27  # at one layer, 512 MiB in float32: evaluating must not need more memory than training


@dataclass
class TrainState:
    """Network, optimiser over exactly that network's parameters, generators, and the history of finished epochs."""

    network: nn.Module
    optimizer: Optimizer
    sampler: torch.Generator  # draws the order of samples, on the CPU
    device: torch.device
    # Samples; it follows from the network alone, so that every evaluation adds up alike.
    evaluation_batch: int = _EVALUATION_SAMPLES
    history: list[EpochMetrics] = field(default_factory=list)

    @classmethod
    def fresh(cls, spec: JobSpec, device: torch.device) -> "TrainState":
        """Build network and optimiser from a resolved spec; every random choice follows from its seed."""
        seed = spec.training.seed
        assert seed is not None, "a resolved spec has a seed"
        torch.manual_seed(seed)
        layers = spec.network.layer_list(len(spec.dataset.facts.classes))
        network = build(layers, spec.dataset.input_shape).to(device)
        return cls(
            network=network,
            optimizer=_optimizer(network, spec.training.optimizer),
            sampler=torch.Generator().manual_seed(seed),
            device=device,
            evaluation_batch=_evaluation_batch(spec.summary()),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values only, so that `torch.load(weights_only=True)` reads them."""
        generators = {"sampler": self.sampler.get_state(), "cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generators": generators,
            "history": [metrics.model_dump() for metrics in self.history],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state, torch's global generators included."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = [EpochMetrics.model_validate(metrics) for metrics in state["history"]]
        generators = state["generators"]
        self.sampler.set_state(generators["sampler"])
        torch.set_rng_state(generators["cpu"])
        if self.device.type == "cuda" and "cuda" in generators:
            torch.cuda.set_rng_state(generators["cuda"], self.device)


def _evaluation_batch(summary: NetworkSummary) -> int:
    return max(1, min(_EVALUATION_SAMPLES, _EVALUATION_VALUES // summary.largest_activations))


def _optimizer(network: nn.Module, spec: Sgd) -> Optimizer:
    return SGD(network.parameters(), lr=spec.learning_rate, momentum=spec.momentum, weight_decay=spec.weight_decay)
