"""Our loop as a job runs it: all of `fit`, in a process prepared as a runner's is."""

import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from uuid import UUID

import torch
from pydantic_settings import BaseSettings

from benchmarks.images import MEAN, STD
from benchmarks.setting import Setting, Timed
from models.recipes import get
from models.result import Environment, EpochMetrics
from models.spec import JobSpec
from worker import checkpoints
from worker.environment import describe_environment
from worker.messages import Assignment
from worker.rank import prepare_process
from worker.training.data import DeviceSplit
from worker.training.loop import now
from worker.training.replicas import Replicas
from worker.training.splits import Splits
from worker.training.state import TrainState

_WARM_UP_EPOCHS = 1
_JOBS_SIDE_BY_SIDE = 2
_VALIDATED = 10_000  # images, as many as the test split has
_NO_JOB = UUID(int=0)
_NO_WEIGHTS = Path()


class _VisibleGpus(BaseSettings):
    """The GPUs that this process sees: the first of them is measured, as torch takes it in the other loops."""

    cuda_visible_devices: str = "0"


def ours(setting: Setting, with_checkpoints: bool) -> Timed:
    """Time whole epochs of `fit` with their metrics, and with a checkpoint after each where asked for."""
    job = _Job.begin(setting)
    return job.timed_fit(setting.row.images, with_checkpoints=with_checkpoints)


def side_by_side(setting: Setting) -> Timed:
    """Time two jobs at once in a process each, with half of the threads, and half of the images, of one alone."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(_JOBS_SIDE_BY_SIDE)
    jobs = []
    for _ in range(_JOBS_SIDE_BY_SIDE):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_one_of_two, args=(setting, barrier, sender))
        process.start()
        sender.close()
        jobs.append((process, receiver))
    timed: list[Timed] = [receiver.recv() for _, receiver in jobs]
    for process, _ in jobs:
        process.join()
    return Timed(
        sum(each.images for each in timed), min(each.started for each in timed), max(each.ended for each in timed)
    )


def replicas_together(setting: Setting, count: int) -> Timed:
    """Time the `fit` of one job with `count` replicas; an image counts once for each of them."""
    return _Job.begin(setting, replicas=count).timed_fit(setting.row.images)


def jobs_in_turn(setting: Setting, count: int) -> Timed:
    """Time the `fit` of `count` jobs one after the other; what each job's own process costs is not counted."""
    timed = [_Job.begin(setting).timed_fit(setting.row.images) for _ in range(count)]
    return Timed(sum(each.images for each in timed), 0.0, sum(each.seconds for each in timed))


def reference_run(setting: Setting) -> tuple[float, float]:
    """Train the whole recipe with validation after each epoch; return the seconds of `fit`, and of training alone."""
    job = _Job.begin(setting, epochs=get(setting.row.recipe).spec.training.epochs)
    train, validation = job.split(setting.images.samples), job.split(_VALIDATED)
    started = now(job.device)
    epochs = job.replicas.fit(job.spec.training, [Splits(train, validation, validation)])
    training_seconds = sum(metrics.train_seconds for metrics in epochs)
    return now(job.device) - started, training_seconds


def losses_of_epochs(setting: Setting, samples: int, epochs: int) -> list[float]:
    """Return the training loss that `fit` reports of each epoch over the first `samples` images."""
    job = _Job.begin(setting, epochs=epochs)
    return [metrics.train_loss for metrics in job.fit(job.split(samples), epochs)]


def order_of_first_epoch(setting: Setting, samples: int) -> list[int]:
    """Return the order in which `fit` goes through so many images at first."""
    state, _ = begin(setting, samples)
    order: list[int] = torch.randperm(samples, generator=state.sampler).tolist()
    return order


def begin(setting: Setting, samples: int) -> tuple[TrainState, DeviceSplit]:
    """Prepare this process, and return what a job begins with and the first `samples` images on its device."""
    job = _Job.begin(setting)
    return job.replicas.first, job.split(samples)


def environment(device: str) -> Environment:
    """Describe the machine; the device `auto` is a GPU where there is one."""
    found = "cuda" if torch.cuda.is_available() else "cpu"
    return describe_environment(torch.device(found if device == "auto" else device), 1, None)


@dataclass(frozen=True)
class _Job:
    """A job whose process is prepared, with its networks as they begin."""

    setting: Setting
    spec: JobSpec
    device: torch.device
    replicas: Replicas

    @classmethod
    def begin(cls, setting: Setting, *, epochs: int | None = None, replicas: int = 1) -> "_Job":
        """Prepare this process as a runner prepares itself, and build the networks."""
        spec = setting.row.spec(epochs or _WARM_UP_EPOCHS + setting.row.epochs, replicas)
        assignment = Assignment(
            job_id=_NO_JOB,
            attempt=1,
            spec=spec,
            artifacts=setting.images.folder,
            datasets=setting.images.datasets,
            download=False,
            checkpoints=[],
            threads=setting.threads,
            gpus=_VisibleGpus().cuda_visible_devices.split(",")[:1] if setting.device == "cuda" else [],
            git_commit=None,
        )
        prepare_process(assignment)
        device = torch.device(setting.device)
        return cls(setting, spec, device, Replicas.fresh(spec, device, weights=_NO_WEIGHTS))

    def split(self, samples: int) -> DeviceSplit:
        """Put the first `samples` images on the device."""
        images, labels = self.setting.images.load(samples)
        memory_format = self.replicas.first.memory_format
        return DeviceSplit(images, labels, mean=MEAN, std=STD, device=self.device, memory_format=memory_format)

    def fit(self, train: DeviceSplit, epochs: int) -> Iterator[EpochMetrics]:
        """Train up to an epoch, nothing validated."""
        training = self.spec.training.model_copy(update={"epochs": epochs})
        return self.replicas.fit(training, [Splits(train, None, train)] * len(self.replicas.members))

    def timed_fit(self, samples: int, *, with_checkpoints: bool = False, ready: Callable[[], object] = bool) -> Timed:
        """Train an epoch of a few steps, call `ready`, and time the spec's other epochs on the first `samples`."""
        few = self.split(min(samples, self.setting.row.warm_up_steps * self.setting.row.batch_size))
        train = self.split(samples)
        for _ in self.fit(few, _WARM_UP_EPOCHS):
            pass
        ready()
        started = now(self.device)
        for metrics in self.fit(train, self.spec.training.epochs):
            if with_checkpoints:
                self._save(metrics.epoch)
        ended = now(self.device)
        epochs = self.spec.training.epochs - _WARM_UP_EPOCHS
        return Timed(len(self.replicas.members) * samples * epochs, started, ended)

    def _save(self, epoch: int) -> None:
        checkpoints.save(self.setting.images.folder, self.replicas.state_dict(), attempt=1, epoch=epoch)


def _one_of_two(setting: Setting, barrier: Barrier, answer: Connection) -> None:
    job = _Job.begin(replace(setting, threads=max(1, setting.threads // _JOBS_SIDE_BY_SIDE)))
    answer.send(job.timed_fit(setting.row.images // _JOBS_SIDE_BY_SIDE, ready=barrier.wait))
