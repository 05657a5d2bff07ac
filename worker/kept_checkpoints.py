"""Which checkpoint files of a job stay on disk: the newest that Postgres knows, and nothing older."""

from collections import deque
from collections.abc import Sequence
from pathlib import Path

from worker.messages import CHECKPOINTS_KEPT, SavedCheckpoint


class KeptCheckpoints:
    """Removed by the supervisor, not the runner: only a recorded checkpoint makes an older one superfluous."""

    def __init__(self, directory: Path, recorded: Sequence[SavedCheckpoint]) -> None:
        """Keep the recorded ones (newest first), and remove what earlier attempts left beside them."""
        self._directory = directory
        self._kept = deque(reversed(recorded))
        names = {checkpoint.file for checkpoint in recorded}
        for path in directory.glob("checkpoint-*"):
            if path.name not in names:
                path.unlink(missing_ok=True)

    def add(self, checkpoint: SavedCheckpoint) -> None:
        """Keep one that was just recorded, and remove the oldest beyond CHECKPOINTS_KEPT."""
        self._kept.append(checkpoint)
        while len(self._kept) > CHECKPOINTS_KEPT:
            (self._directory / self._kept.popleft().file).unlink(missing_ok=True)
