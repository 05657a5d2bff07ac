"""Early stopping: the best epoch so far with its weights, and when to give up hope for a better one."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from models.result import EpochMetrics
from models.training_spec import EarlyStopping


@dataclass(frozen=True)
class BestEpoch:
    """The last epoch that improved the metric, its value there, and a copy of the network's state on the device."""

    epoch: int
    value: float
    weights: dict[str, Tensor]

    def to(self, device: torch.device) -> "BestEpoch":
        """Return the same with its weights on `device`."""
        return replace(self, weights={name: tensor.to(device) for name, tensor in self.weights.items()})


def better_of(best: BestEpoch | None, metrics: EpochMetrics, network: nn.Module, wanted: EarlyStopping) -> BestEpoch:
    """Return `best`, or the epoch just measured where it is better by more than `min_delta`."""
    value = getattr(metrics, wanted.metric)
    assert value is not None, "a spec whose metric is not measured is refused"
    if best is not None and not _improves(value, best.value, wanted):
        return best
    weights = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    return BestEpoch(metrics.epoch, value, weights)


def patience_is_over(best: BestEpoch, epoch: int, wanted: EarlyStopping) -> bool:
    """Tell whether `patience` epochs in a row, up to this one, have not improved the metric."""
    return epoch - best.epoch >= wanted.patience


def _improves(value: float, best: float, wanted: EarlyStopping) -> bool:
    gain = value - best if wanted.metric == "validation_accuracy" else best - value
    return gain > wanted.min_delta
