"""Everything needed to go on training: one `TrainState`, saved and loaded whole."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from models.network import NetworkSummary
from models.result import EpochMetrics
from models.spec import JobSpec
from models.training_spec import Precision
from worker.networks import build_network
from worker.training.early_stopping import BestEpoch
from worker.training.objective import Objective, objective_of
from worker.training.optimizers import build_optimizer
from worker.training.precision import autocast, gradient_scaler
from worker.training.ranks import Ranks

_EVALUATION_SAMPLES = 1_000
_EVALUATION_VALUES = 2**27  # at one layer, 512 MiB in float32: evaluating must not need more memory than training
# Of an optimiser: chosen for the device, as `build_optimizer` does, and of no use on another kind.
_DEVICE_OPTIONS = ("capturable", "foreach", "fused")
# On a CPU a generator takes the low 32 bits of its seed: these change them, so that no two draw the same numbers.
_AUGMENTATION_SEED = 0x9E3779B9


@dataclass
class TrainState:
    """Network, optimiser over exactly that network's parameters, generators, and the history of finished epochs."""

    network: nn.Module
    summary: NetworkSummary
    objective: Objective
    precision: Precision
    optimizer: Optimizer
    scaler: GradScaler  # of the loss, in float16; otherwise it does nothing
    sampler: torch.Generator  # draws the order of samples, on the CPU
    augmenter: torch.Generator  # draws the changes of training images, on the device
    device: torch.device
    ranks: Ranks = field(default_factory=Ranks)  # that train this network: one, or several with a device each
    memory_format: torch.memory_format = torch.contiguous_format  # that the network computes images in fastest
    # Samples; it follows from the network alone, so that every evaluation adds up alike.
    evaluation_batch: int = _EVALUATION_SAMPLES
    history: list[EpochMetrics] = field(default_factory=list)
    best: BestEpoch | None = None  # kept where the spec asks for early stopping
    stopped_early: bool = False

    @classmethod
    def fresh(cls, spec: JobSpec, device: torch.device, *, weights: Path, ranks: Ranks | None = None) -> "TrainState":
        """Build network and optimiser from a resolved spec; every random choice follows from its seed.

        `weights` is the directory of the files that a spec may name to start from.
        """
        training, seed = spec.training, spec.training.seed
        assert seed is not None, "a resolved spec has a seed"
        torch.manual_seed(seed)
        network, summary = build_network(spec.network, spec.dataset.input_shape, spec.dataset.outputs, weights)
        memory_format = _memory_format(network)
        network = network.to(device, memory_format=memory_format)  # type: ignore[call-overload]
        return cls(
            network=network,
            summary=summary,
            objective=objective_of(spec.dataset.task, training.label_smoothing),
            precision=training.precision,
            optimizer=build_optimizer(network, training.optimizer),
            scaler=gradient_scaler(training.precision, device),
            sampler=torch.Generator().manual_seed(seed),
            augmenter=torch.Generator(device).manual_seed(seed ^ _AUGMENTATION_SEED),
            device=device,
            ranks=ranks or Ranks(),
            memory_format=memory_format,
            evaluation_batch=_evaluation_batch(summary),
        )

    @property
    def next_epoch(self) -> int:
        """The epoch to be trained next, from 1."""
        return self.history[-1].epoch + 1 if self.history else 1

    @property
    def weights_epoch(self) -> int:
        """The epoch whose weights the network has once the training is over."""
        return self.history[-1].epoch if self.best is None else self.best.epoch

    def forward(self, inputs: Tensor, network: nn.Module | None = None) -> Tensor:
        """Return the outputs in float32, computed in the precision of the job, of the network or what is around it."""
        with autocast(self.precision, self.device):
            outputs: Tensor = (network or self.network)(inputs)
        return outputs.float()

    def restore_best(self) -> None:
        """Give the network the weights of the best epoch, where one is kept."""
        if self.best is not None:
            self.network.load_state_dict(self.best.weights)

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values only, so that `torch.load(weights_only=True)` reads them."""
        generators = {
            "sampler": self.sampler.get_state(),
            "cpu": torch.get_rng_state(),
            f"augmenter_{self.device.type}": self.augmenter.get_state(),
        }
        if self.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "generators": generators,
            "history": [metrics.model_dump() for metrics in self.history],
            "best": None if self.best is None else vars(self.best),
            "stopped_early": self.stopped_early,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state, torch's global generators included."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(_with_options_of(self.optimizer, state["optimizer"]))
        self.scaler.load_state_dict(state["scaler"])
        self.history = [EpochMetrics.model_validate(metrics) for metrics in state["history"]]
        self.best = None if state["best"] is None else BestEpoch(**state["best"]).to(self.device)
        self.stopped_early = state["stopped_early"]
        self._load_generators(state["generators"])

    def load_weights(self, state: dict[str, Any]) -> None:
        """Take over the weights of a saved state alone: optimiser, schedule, generators and history begin anew."""
        self.network.load_state_dict(state["network"])

    def _load_generators(self, states: dict[str, Tensor]) -> None:
        """Take over what can be: the states of generators on a CPU and on a GPU say nothing to each other."""
        self.sampler.set_state(states["sampler"])
        torch.set_rng_state(states["cpu"])
        if (augmenter := f"augmenter_{self.device.type}") in states:
            self.augmenter.set_state(states[augmenter])
        if self.device.type == "cuda" and "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self.device)


def _with_options_of(optimizer: Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """Return an optimiser's saved state with those options that belong to a kind of device as they are in this one."""
    groups = [
        group | {name: now[name] for name in _DEVICE_OPTIONS if name in now}
        for group, now in zip(saved["param_groups"], optimizer.param_groups, strict=True)
    ]
    return saved | {"param_groups": groups}


def _evaluation_batch(summary: NetworkSummary) -> int:
    return max(1, min(_EVALUATION_SAMPLES, _EVALUATION_VALUES // summary.largest_activations))


def _memory_format(network: nn.Module) -> torch.memory_format:
    """Return the layout of images that suits the network: convolutions are faster with the channels innermost."""
    convolves = any(isinstance(module, nn.Conv2d) for module in network.modules())
    return torch.channels_last if convolves else torch.contiguous_format
