"""Named moments at which the fault harness may hold a process; in production each is a call of an empty function."""

import os
import time
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict

_POLL_SECONDS = 0.002


class FaultPoint(StrEnum):
    """A moment in which a process may be killed, suspended or overtaken; the name is that of the file that arms it."""

    CLAIM = "claim"  # worker: the job's row is changed, and not committed
    CLAIMED = "claimed"  # worker: committed, no runner yet
    DATA_LOADING = "data_loading"  # runner: reads its data set
    EPOCH = "epoch"  # runner: between two batches of an epoch
    CHECKPOINT_WRITE = "checkpoint_write"  # runner: written aside, not renamed yet
    CHECKPOINT_SAVED = "checkpoint_saved"  # runner: renamed, and nobody knows of it
    EPOCH_TRANSACTION = "epoch_transaction"  # worker: an epoch is inserted, and not committed
    FINAL_EVALUATION = "final_evaluation"  # runner: trained, and measures
    FINAL_TRANSACTION = "final_transaction"  # worker: the result is inserted, and not committed
    CANCEL = "cancel"  # API: the status is changed, and not committed
    CANCEL_SEEN = "cancel_seen"  # worker: knows of the request, and has not asked its runner yet
    PAUSE = "pause"  # API: the status is changed, and not committed
    PAUSE_SEEN = "pause_seen"  # worker: knows of the request, and has not asked its runner yet
    SUBMITTED = "submitted"  # API: the job is committed, and no worker was woken
    RENEWAL = "renewal"  # worker: about to renew a lease
    REMOVAL = "removal"  # scheduler: a job's files are removed, and its row is as it was
    EXPIRY = "expiry"  # worker or scheduler: found a lease that has run out, and has not taken it yet


class FaultSettings(BaseSettings):
    """Where the harness arms points; unset everywhere but in its tests."""

    model_config = SettingsConfigDict(env_prefix="TRAINYARD_", frozen=True, extra="ignore")

    fault_points: Path | None = None


def _nothing(point: FaultPoint) -> None:
    """Go on: no harness is there."""


def _holder(directory: Path) -> Callable[[FaultPoint], None]:
    """Return what holds the first process that comes to a point whose file is in the directory.

    The file says how many times each process passes before, and which arming it is. It is renamed to `<point>.<pid>` by
    the one that is held, which goes on when that file is gone.
    """
    passed: Counter[tuple[FaultPoint, str]] = Counter()

    def hold(point: FaultPoint) -> None:
        armed = directory / point
        held = directory / f"{point}.{os.getpid()}"
        try:
            passes, arming = armed.read_text().split()
            passed[point, arming] += 1
            if passed[point, arming] <= int(passes):
                return
            armed.rename(held)
        except FileNotFoundError:
            return  # not armed, or another process was faster
        while held.exists():
            time.sleep(_POLL_SECONDS)

    return hold


_directory = FaultSettings().fault_points
fault_point: Callable[[FaultPoint], None] = _nothing if _directory is None else _holder(_directory)
