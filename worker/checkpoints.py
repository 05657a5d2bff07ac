"""Checkpoints on disk: written aside, flushed, renamed, checked by their sha256 before they are trusted."""

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from models.errors import InitialCheckpointLost
from worker.messages import SavedCheckpoint


def save(directory: Path, state: dict[str, Any], *, attempt: int, epoch: int) -> SavedCheckpoint:
    """Write a checkpoint that is there whole or not at all, and return its name and checksum.

    The attempt stands in the name: a worker that lost its lease cannot overwrite what its successor wrote.
    """
    buffer = io.BytesIO()
    torch.save({"attempt": attempt, "epoch": epoch, "state": state}, buffer)
    content = buffer.getvalue()
    name = f"checkpoint-{attempt:04d}-{epoch:06d}.pt"
    _write_durably(directory / name, content)
    return SavedCheckpoint(epoch=epoch, file=name, sha256=hashlib.sha256(content).hexdigest())


def load_newest(
    directory: Path, candidates: Sequence[SavedCheckpoint]
) -> tuple[dict[str, Any], SavedCheckpoint] | None:
    """Return the state of the first candidate that is whole; say on standard output which were skipped."""
    for candidate in candidates:
        try:
            content = (directory / candidate.file).read_bytes()
        except OSError as error:
            print(f"Checkpoint {candidate.file} is skipped: {error.strerror}.", flush=True)
            continue
        if hashlib.sha256(content).hexdigest() != candidate.sha256:
            print(f"Checkpoint {candidate.file} is skipped: it is damaged (its checksum differs).", flush=True)
            continue
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        state: dict[str, Any] = loaded["state"]
        return state, candidate
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


def _write_durably(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
