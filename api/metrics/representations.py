"""Curves as bodies: a line of JSON per epoch becomes JSON, NDJSON or CSV, with a note about what is no number."""

import csv
import gzip
import io
import json
import math
from collections.abc import Sequence
from typing import Any

from api.metrics.answers import Body, Question
from api.metrics.negotiation import MediaType
from api.metrics.queries import REPLICAS, Standing
from api.metrics.schemas import Note

_SMALLEST_GZIP = 1_024  # bytes; below, the gain is not worth the time
_GZIP_LEVEL = 5
_NOT_FINITE = ("NaN", "Infinity")


def body(question: Question, standing: Standing, lines: str, notes: Sequence[Note] | None = None) -> Body:
    """Return the answer to a question from the epochs' lines, as `queries.curves` returns them.

    The `notes` are those on the lines, unless there are some on the epochs that the lines stand for.
    """
    found: list[Note] = []
    if any(token in lines for token in _NOT_FINITE):
        lines, found = _without_non_finite(lines)
    notes = found if notes is None else notes
    match question.media_type:
        case MediaType.JSON:
            text = _json(question, standing, lines, notes)
        case MediaType.NDJSON:
            text = lines + "\n" if lines else ""
        case MediaType.CSV:
            text = _csv(question, lines)
    content = text.encode()
    headers = {"Content-Type": _CONTENT_TYPES[question.media_type]}
    if notes:
        headers["Trainyard-Notes"] = _json_of_notes(notes)
    if question.gzip and len(content) > _SMALLEST_GZIP:
        headers["Content-Encoding"] = "gzip"
        content = gzip.compress(content, _GZIP_LEVEL, mtime=0)
    return Body(content, headers)


_CONTENT_TYPES = {
    MediaType.JSON: MediaType.JSON.value,
    MediaType.NDJSON: MediaType.NDJSON.value,
    MediaType.CSV: f"{MediaType.CSV}; charset=utf-8; header=present",
}


def _json(question: Question, standing: Standing, lines: str, notes: Sequence[Note]) -> str:
    """Return the text of a MetricsView."""
    epochs = lines.replace("\n", ",")
    terminal, following = json.dumps(standing.terminal), standing.next(question.after)
    return (
        f'{{"job_id":"{question.job_id}","status":"{standing.status}","terminal":{terminal},'
        f'"epochs":[{epochs}],"next":{following},"notes":{_json_of_notes(notes)}}}'
    )


def _json_of_notes(notes: Sequence[Note]) -> str:
    return json.dumps([note.model_dump() for note in notes], separators=(",", ":"))


def _csv(question: Question, lines: str) -> str:
    """Return a table with a header line; a cell without a value is empty, and replicas are left out."""
    text = io.StringIO()
    columns = ["epoch", *(name for name in question.names if name != REPLICAS)]
    table = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\r\n")
    table.writeheader()
    table.writerows(json.loads(line) for line in lines.splitlines())
    return text.getvalue()


def notes_on(names: Sequence[str], columns: Sequence[Sequence[float | None]], epochs: Sequence[int]) -> list[Note]:
    """Say where values are infinite or not a number; each of `columns` has that of a name for each of `epochs`."""
    places = _Places()
    for name, column in zip(names, columns, strict=True):
        for value, epoch in zip(column, epochs, strict=True):
            if value is not None and not math.isfinite(value):
                places.setdefault((name, json.dumps(value)), []).append(epoch)
    return _notes(places)


_Places = dict[tuple[str, str], list[int]]  # the epochs by metric and value


def _without_non_finite(lines: str) -> tuple[str, list[Note]]:
    """Put null where a value is infinite or not a number, and say where."""
    places = _Places()
    cleaned = []
    for line in lines.splitlines():
        epoch: dict[str, Any] = json.loads(line)
        for name, value in epoch.items():
            if isinstance(value, float) and not math.isfinite(value):
                places.setdefault((name, json.dumps(value)), []).append(epoch["epoch"])
                epoch[name] = None
        cleaned.append(json.dumps(epoch, separators=(",", ":")))
    return "\n".join(cleaned), _notes(places)


def _notes(places: _Places) -> list[Note]:
    return [
        Note(metric=name, value=value, epochs=len(where), first=where[0], last=where[-1])
        for (name, value), where in places.items()
    ]
