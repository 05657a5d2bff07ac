"""The JSON texts of jobs as they were shown last, each with the version of the rows that it was made from."""

from collections.abc import Iterable

from api.kept import Kept

Fields = tuple[str, ...]

_MOST_BYTES = 64 * 1_048_576
_OVERHEAD_BYTES = 512  # of an entry, about


class JobTexts:
    """What one process keeps; nothing asks again for the text of a version that is past."""

    def __init__(self) -> None:
        """Keep nothing yet."""
        self._kept: Kept[tuple[str, Fields], str] = Kept(_MOST_BYTES)

    def of(self, versions: Iterable[str], fields: Fields) -> dict[str, str]:
        """Return the texts with these fields that are kept of jobs, by the jobs' versions."""
        kept = ((version, self._kept.get((version, fields))) for version in versions)
        return {version: text for version, text in kept if text is not None}

    def keep(self, version: str, fields: Fields, text: str) -> None:
        """Keep the text of a job with these fields."""
        self._kept.put((version, fields), text, len(text) + _OVERHEAD_BYTES)
