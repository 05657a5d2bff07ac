"""Which checkpoint files of a job stay on disk: the newest that Postgres knows, and that of the best epoch."""

from collections.abc import Sequence
from pathlib import Path

from worker.messages import CHECKPOINTS_KEPT, SavedCheckpoint


class KeptCheckpoints:
    """Removed by the supervisor, not the runner: only a recorded checkpoint makes an older one superfluous."""

    def __init__(self, directory: Path, recorded: Sequence[SavedCheckpoint], attempt: int) -> None:
        """Keep the recorded ones (newest first), and remove what attempts before this one left beside them."""
        self._directory = directory
        self._kept = list(reversed(recorded))
        names = {checkpoint.file for checkpoint in recorded}
        for path in directory.glob("checkpoint-[0-9]*-[0-9]*"):
            if path.name not in names and int(path.name.split("-")[1]) < attempt:
                path.unlink(missing_ok=True)

    def add(self, checkpoint: SavedCheckpoint, best: str | None = None) -> None:
        """Keep one that was just recorded; remove those of epochs that it repeats, then the oldest beyond the limit.

        The file named `best`, of the best epoch so far, stays however old it is.
        """
        earlier = [kept for kept in self._kept if kept.epoch < checkpoint.epoch]
        newest = earlier[-(CHECKPOINTS_KEPT - 1) :]
        keep = [*(kept for kept in earlier if kept in newest or kept.file == best), checkpoint]
        for superfluous in self._kept:
            if superfluous not in keep:
                (self._directory / superfluous.file).unlink(missing_ok=True)
        self._kept = keep
