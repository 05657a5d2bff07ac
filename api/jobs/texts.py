"""The JSON texts of jobs as they were shown last, each with the version of the rows that it was made from."""

from collections.abc import Iterable
from uuid import UUID

from api.kept import Kept

Fields = tuple[str, ...]

_MOST_BYTES = 64 * 1_048_576
_OVERHEAD_BYTES = 512  # of an entry, about


class JobTexts:
    """What one process keeps; a text of another version than the one asked for is as good as none."""

    def __init__(self) -> None:
        """Keep nothing yet."""
        self._kept: Kept[tuple[UUID, Fields], tuple[str, str]] = Kept(_MOST_BYTES)

    def of(self, jobs: Iterable[tuple[UUID, str]], fields: Fields) -> dict[UUID, str]:
        """Return the texts with these fields of those jobs, each with its version, of which one is kept."""
        kept = ((job_id, version, self._kept.get((job_id, fields))) for job_id, version in jobs)
        return {job_id: entry[1] for job_id, version, entry in kept if entry is not None and entry[0] == version}

    def keep(self, job_id: UUID, fields: Fields, version: str, text: str) -> None:
        """Keep the text of a job with these fields."""
        self._kept.put((job_id, fields), (version, text), len(text) + _OVERHEAD_BYTES)
