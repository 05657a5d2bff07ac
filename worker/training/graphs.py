"""Whole steps as CUDA graphs: a step of a fixed shape is recorded once, and a single launch repeats all its kernels."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor
from torch.optim import Optimizer

from models.training_spec import Constant, TrainingSpec
from worker.training.data import BatchedSplit, Part
from worker.training.distributed import RankStep
from worker.training.state import TrainState
from worker.training.step import EagerStep, Step, set_learning_rate

_WARM_UP_STEPS = 3  # before a recording, as torch's notes on CUDA graphs have it
_log = logging.getLogger(__name__)


class Recordable(Step, Protocol):
    """A step that can also be made at the learning rate that its optimiser has."""

    def descend(self, part: Part) -> Tensor:
        """Descend without waiting for the device."""
        ...


class Trained(Protocol):
    """What a step trains: a `TrainState`, or several as one."""

    @property
    def optimizer(self) -> Optimizer:
        """The optimiser whose steps are recorded."""
        ...

    @property
    def device(self) -> torch.device:
        """The device that it is on."""
        ...


class Recorder:
    """Records what runs on a GPU; another may stand in where there is none."""

    def __init__(self, device: torch.device, generators: Sequence[Generator]) -> None:
        """Record on a stream of its own; the `generators` beside torch's own are those that recordings draw from."""
        self._stream = torch.cuda.Stream(device)
        self._generators = generators

    def warm_up(self, run: Callable[[], Tensor]) -> Tensor:
        """Run on the stream that recordings are made on, so that its libraries have started there."""
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = run()
        current.wait_stream(self._stream)
        return result

    def record(self, run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        """Return where the result of `run` will stand, and what runs it; nothing has run when this returns."""
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        # What other threads do meanwhile, such as pinning memory, does not concern the recording.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            result = run()
        return result, graph.replay


class GraphStep:
    """A step that is recorded with the first whole batch after the warm-up, and then repeated.

    Warm-up steps are steps of the training like all others. The smaller batch at the end of an epoch runs operation by
    operation, as everything does where the recording is refused.
    """

    def __init__(
        self,
        eager: Recordable,
        state: Trained,
        training: TrainingSpec,
        recorder: Recorder,
        samples: int | None = None,
    ) -> None:
        """Prepare to record `eager`, whose optimiser reads its rate from the device where a schedule changes it.

        `samples` are those of a whole batch, where these are not the batch size.
        """
        self._eager = eager
        self._optimizer = state.optimizer
        self._device = state.device
        self._batch_size = samples or training.batch_size
        schedule = training.schedule
        self._rate_changes = not isinstance(schedule, Constant) or schedule.warmup_epochs > 0
        self._rate = math.nan
        self._rate_there = torch.empty((), device=self._device)
        self._recorder = recorder
        self._warm_up_left = _WARM_UP_STEPS
        self._refused = False
        self._recorded: _Recorded | None = None

    def __call__(self, part: Part, rate: float) -> Tensor:
        """Descend at this learning rate; return mean loss, penalty and hits, float32 (3,), on the device."""
        if self._refused:
            return self._eager(part, rate)
        with self._rate_on_device(rate):
            if len(part[1]) != self._batch_size:
                return self._eager.descend(part)
            if self._warm_up_left:
                self._warm_up_left -= 1
                return self._recorder.warm_up(lambda: self._eager.descend(part))
            self._recorded = self._recorded or self._record(part)
            if self._recorded is not None:
                return self._recorded.repeat(part)
        return self._eager(part, rate)

    @contextmanager
    def _rate_on_device(self, rate: float) -> Iterator[None]:
        """Let the optimiser read a rate that changes from the device, in all steps, for they must round alike.

        Between the steps, in a checkpoint, it has the number.
        """
        if self._rate_changes and rate != self._rate:
            self._rate = rate
            self._rate_there.fill_(rate)
        set_learning_rate(self._optimizer, self._rate_there if self._rate_changes else rate)
        try:
            yield
        finally:
            set_learning_rate(self._optimizer, rate)

    def _record(self, part: Part) -> "_Recorded | None":
        inputs, targets = (each.clone() for each in part)
        try:
            figures, replay = self._recorder.record(lambda: self._eager.descend((inputs, targets)))
        except RuntimeError as error:
            self._refused = True
            _log.warning("The steps run one operation at a time, for no CUDA graph could be made of them: %s", error)
            return None
        return _Recorded((inputs, targets), figures, replay)


@dataclass(frozen=True)
class _Recorded:
    """A recording with the tensors that it reads and writes, which stay where they are."""

    part: Part
    figures: Tensor
    replay: Callable[[], None]

    def repeat(self, part: Part) -> Tensor:
        """Make the step with this part."""
        for own, other in zip(self.part, part, strict=True):
            own.copy_(other)
        self.replay()
        return self.figures.clone()


def make_step(state: TrainState, training: TrainingSpec, train: BatchedSplit) -> Step:
    """Return the fastest step for the device of `state`.

    Under loss scaling the scaler decides in Python what is to be done, which no recording can repeat. Several ranks
    wait for each other between the operations of a step.
    """
    if state.ranks.count > 1:
        return RankStep(state, training, train)
    eager = EagerStep(state, training, train)
    if state.device.type != "cuda" or state.scaler.is_enabled():
        return eager
    generators = [state.augmenter] if training.augmentation is not None else []
    return GraphStep(eager, state, training, Recorder(state.device, generators))
