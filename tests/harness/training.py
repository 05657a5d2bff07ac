"""The types of the fixtures with which the training is tested, and the smallest network."""

from collections.abc import Callable
from typing import Any

from models.spec import JobSpec
from worker.training.data import DeviceSplit
from worker.training.state import TrainState

MakeSplit = Callable[..., DeviceSplit]
MakeJob = Callable[..., JobSpec]
Fresh = Callable[[JobSpec], TrainState]

LINEAR: dict[str, Any] = {
    "name": "sequential",
    "layers": [{"kind": "flatten"}, {"kind": "linear", "out_features": 10}],
}
