"""Checkpoints on disk: written aside, flushed, renamed, and held against what Postgres knows before they are used."""

import hashlib
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from models.errors import InitialCheckpointLost
from models.faults import FaultPoint, fault_point
from worker.full_disk import space_for
from worker.messages import CheckpointSkipped, SavedCheckpoint


def save(directory: Path, state: dict[str, Any], *, attempt: int, epoch: int) -> SavedCheckpoint:
    """Write a checkpoint that is there whole or not at all, and return its name and checksum.

    The attempt stands in the name: a worker that lost its lease cannot overwrite what its successor wrote. Raises
    DiskFull, and then leaves nothing.
    """
    buffer = io.BytesIO()
    torch.save({"attempt": attempt, "epoch": epoch, "state": state}, buffer)
    content = buffer.getbuffer()
    name = f"checkpoint-{attempt:04d}-{epoch:06d}.pt"
    with space_for(f"checkpoint {name} ({len(content):,} bytes)", directory):
        _write_durably(directory / name, content)
    return SavedCheckpoint(attempt=attempt, epoch=epoch, file=name, sha256=hashlib.sha256(content).hexdigest())


def load_newest(
    directory: Path, candidates: Sequence[SavedCheckpoint], skip: Callable[[CheckpointSkipped], None] | None = None
) -> tuple[dict[str, Any], SavedCheckpoint] | None:
    """Return the state of the first candidate that is what Postgres knows of it.

    Those passed over are named on standard output, which is the log of the job, and each is given to `skip`.
    """
    for candidate in candidates:
        try:
            return _load(directory, candidate), candidate
        except _NotAsRecorded as error:
            print(f"Checkpoint {candidate.file} is skipped: {error}.", flush=True)
            if skip is not None:
                skip(CheckpointSkipped(checkpoint=candidate, why=str(error)))
    return None


def load_initial(path: Path, sha256: str) -> dict[str, Any]:
    """Return the state of another job's checkpoint; raise InitialCheckpointLost where it is missing or damaged."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InitialCheckpointLost(f"The initial checkpoint cannot be read: {error.strerror}.") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise InitialCheckpointLost("The initial checkpoint is damaged: its checksum differs.")
    state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)["state"]
    return state


class _NotAsRecorded(Exception):
    """Why a file is not the checkpoint that Postgres knows under its name."""


def _load(directory: Path, recorded: SavedCheckpoint) -> dict[str, Any]:
    try:
        content = (directory / recorded.file).read_bytes()
    except OSError as error:
        raise _NotAsRecorded(error.strerror) from error
    if hashlib.sha256(content).hexdigest() != recorded.sha256:
        raise _NotAsRecorded("it is damaged (its checksum differs)")
    loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if (loaded["attempt"], loaded["epoch"]) != (recorded.attempt, recorded.epoch):
        raise _NotAsRecorded(f"it is of attempt {loaded['attempt']}, epoch {loaded['epoch']}")
    state: dict[str, Any] = loaded["state"]
    return state


def _write_durably(path: Path, content: memoryview) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        aside.unlink(missing_ok=True)  # of a full disk, others need what it took
        raise
    fault_point(FaultPoint.CHECKPOINT_WRITE)
    aside.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
