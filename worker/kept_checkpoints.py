"""Which checkpoint files of a job stay on disk: the newest that Postgres knows, and that of the best epoch."""

from collections.abc import Collection, Sequence
from pathlib import Path

import structlog

from worker.messages import CHECKPOINTS_KEPT, SavedCheckpoint

log = structlog.get_logger(__name__)


class KeptCheckpoints:
    """Removed by the supervisor, not the runner: only a recorded checkpoint makes an older one superfluous."""

    def __init__(self, directory: Path, recorded: Sequence[SavedCheckpoint], attempt: int) -> None:
        """Keep the recorded ones (newest first), and remove what attempts before this one left beside them."""
        self._directory = directory
        self._attempt = attempt
        self._kept = list(reversed(recorded))
        self._remove_strays()

    def add(self, checkpoint: SavedCheckpoint, best: str | None = None) -> None:
        """Keep one that was just recorded; remove those of epochs that it repeats, then the oldest beyond the limit.

        The file named `best`, of the best epoch so far, stays however old it is. What a runner of an earlier attempt,
        suspended or cut off, has written since then goes as well.
        """
        earlier = [kept for kept in self._kept if kept.epoch < checkpoint.epoch]
        newest = earlier[-(CHECKPOINTS_KEPT - 1) :]
        keep = [*(kept for kept in earlier if kept in newest or kept.file == best), checkpoint]
        for superfluous in self._kept:
            if superfluous not in keep:
                _remove(self._directory / superfluous.file)
        self._kept = keep
        self._remove_strays()

    def drop_unrecorded(self) -> None:
        """Remove what this attempt, which is over, wrote and nobody recorded: its runner may have been killed at it."""
        self.drop_own_but({kept.file for kept in self._kept})

    def drop_own_but(self, recorded: Collection[str]) -> None:
        """Remove the files of this attempt, which is over, but for those named in the database."""
        for path in self._directory.glob(f"checkpoint-{self._attempt:04d}-*"):
            if path.name not in recorded:
                _remove(path)

    def _remove_strays(self) -> None:
        """Remove what earlier attempts wrote and nobody recorded; a later attempt knows its own files."""
        names = {kept.file for kept in self._kept}
        for path in self._directory.glob("checkpoint-[0-9]*-[0-9]*"):
            if path.name not in names and int(path.name.split("-")[1]) < self._attempt:
                _remove(path)


def _remove(path: Path) -> None:
    """Remove a file that may be gone; one that cannot be removed costs disk space, not the job."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("checkpoint_not_removed", file=path.name, detail=str(error))
