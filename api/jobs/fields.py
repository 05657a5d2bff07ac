"""A job as it is shown, in SQL: every field by its name, so that Postgres itself writes the JSON of a JobView.

The fields are SQL text, not expressions of SQLAlchemy: going through sixty of these again at each request took longer
than the query.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import ColumnElement, Select, Text, literal_column, select, text, true

from models.job import FINAL, LIVE, Job
from models.scores import Scores, score_columns
from models.spec import JobSpec
from models.user import User
from models.validation import MetadataKey

Tree = Mapping[str, "str | Tree"]

_SPEC_PATH = re.compile(r"spec(\.[a-z0-9_]{1,64}){1,8}")
_METADATA = "spec.metadata."
_METADATA_KEY: TypeAdapter[str] = TypeAdapter(MetadataKey)
_MOST_PAIRS = 50  # of one call: Postgres takes 100 arguments of a function


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))


def _moment(at: str) -> str:
    """Return the text of a moment as pydantic writes it, in UTC."""
    return f"""to_char({at} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""


_MOVE = ("from_status", "to_status", "reason", "message", "attempt")
# What the transitions of a job say: all of them, when it was first started, and when the last one was.
_MOVES = text(
    f"""
    SELECT json_agg(json_build_object({", ".join(f"'{name}', {name}" for name in _MOVE)}, 'at', {_moment("at")})
            ORDER BY transitions.id) AS moves,
        {_moment(f"min(at) FILTER (WHERE to_status IN ({_quoted(LIVE)}))")} AS started,
        {_moment("max(at)")} AS latest
    FROM transitions WHERE transitions.job_id = jobs.id
    """  # noqa: S608 - names of this program
)
_OF_MOVES = {"started_at", "finished_at", "transitions"}

_LEAVES: dict[str, str] = {
    "id": "jobs.id",
    "user": "users.name",
    "sweep": "jobs.sweep_id",
    "queue.name": "jobs.queue",
    "priority": "jobs.priority",
    "name": "jobs.name",
    "status": "jobs.status",
    "reason": "jobs.reason",
    "message": "jobs.message",
    "attempt": "jobs.attempt",
    "retries": "jobs.retries",
    "progress.epoch": "coalesce(scores.last_epoch, 0)",
    "progress.epochs": "jobs.epochs",
    **{name: f"scores.{column.key}" for name, column in score_columns().items()},
    "last.replicas": "(SELECT replicas FROM epochs WHERE job_id = jobs.id AND epoch = scores.last_epoch)",
    "best.replicas": "(SELECT replicas FROM epochs WHERE job_id = jobs.id AND epoch = scores.best_epoch)",
    "created_at": _moment("jobs.created_at"),
    "started_at": "moves.started",
    "finished_at": f"CASE WHEN jobs.status IN ({_quoted(FINAL)}) THEN moves.latest END",
    "transitions": "moves.moves",
    "spec": "jobs.spec",
}
WHOLE = tuple(_LEAVES)
# What is null as a whole where this does not hold.
_THERE_IS = {
    "last": "scores.last_epoch IS NOT NULL",
    "best": "scores.best_epoch IS NOT NULL",
    "test": "scores.test_loss IS NOT NULL",
}
_HAS_REPLICAS = "(jobs.spec -> 'training' -> 'replicas')::int > 1"


def find(name: str) -> list[str]:
    """Return the fields that a name stands for: itself, or all in the group of that name; none where there is none."""
    found = [field for field in _LEAVES if field == name or field.startswith(f"{name}.")]
    return [name] if not found and _is_in_spec(name) else found


def _is_in_spec(name: str) -> bool:
    if name.startswith(_METADATA):
        try:
            _METADATA_KEY.validate_python(name.removeprefix(_METADATA))
        except ValidationError:
            return False
        return True
    return _SPEC_PATH.fullmatch(name) is not None and name.split(".")[1] in JobSpec.model_fields


def _steps(field: str) -> list[str]:
    """Return the names on the way to a field; behind `spec.metadata.` is one key, which may have dots."""
    if field.startswith(_METADATA):
        return [*_METADATA.split(".")[:2], field.removeprefix(_METADATA)]
    return field.split(".")


def names() -> list[str]:
    """Return the names of the groups and of all other fields, as they are shown."""
    return list(dict.fromkeys(field.partition(".")[0] for field in _LEAVES))


def _column(sql: str, name: str) -> ColumnElement[str]:
    return literal_column(sql, Text).label(name)


# As text: making a UUID of it takes longer than the rest of a line.
ID = _column("jobs.id::text", "id")
# Of one job, and another one whenever anything that is shown of it is: its moves, and its epochs, come with a change of
# these rows.
VERSION = _column("concat_ws(' ', jobs.id, jobs.xmin, users.xmin, scores.xmin)", "version")


BUT_QUEUE = tuple(field for field in WHOLE if not field.startswith("queue."))


def shown(fields: tuple[str, ...] = WHOLE) -> Select[str, str, str]:
    """Return the query of `id`, `version` and `text`, the JSON of these fields, of jobs; which ones is still to say."""
    query = (
        select(ID, VERSION, _column(_json(fields), "text"))
        .select_from(Job)
        .join(User, User.id == Job.user_id)
        .outerjoin(Scores, Scores.job_id == Job.id)
    )
    moves = _MOVES.columns(moves=Text, started=Text, latest=Text).lateral("moves")
    return query.join(moves, true()) if _OF_MOVES & set(fields) else query


@lru_cache
def _json(fields: tuple[str, ...]) -> str:
    """Return the SQL of a JSON object from fields by their dotted names; what is within a whole one is part of it."""
    root = dict[str, Any]()
    for field in fields:
        *groups, leaf = _steps(field)
        if any(".".join(groups[:depth]) in fields for depth in range(1, len(groups) + 1)):
            continue
        here = root
        for group in groups:
            here = here.setdefault(group, {})
        here[leaf] = _LEAVES.get(field) or _of_spec(*groups[1:], leaf)
    return f"{_object(root)}::text"


def _of_spec(*steps: str) -> str:
    quoted = ",".join(f'"{step}"' for step in steps)  # or a key `null` would be none
    return f"jobs.spec #> '{{{quoted}}}'"


def _object(tree: Tree, group: str | None = None) -> str:
    pairs = {name: value if isinstance(value, str) else _object(value, name) for name, value in tree.items()}
    if group not in _THERE_IS:
        return _built(pairs)
    whole = _built({name: value for name, value in pairs.items() if name != "replicas"})
    if "replicas" in pairs:
        whole = f"CASE WHEN {_HAS_REPLICAS} THEN {_built(pairs)} ELSE {whole} END"
    return f"CASE WHEN {_THERE_IS[group]} THEN {whole} END"


def _built(pairs: Mapping[str, str]) -> str:
    """Return the SQL of one JSON object; a call takes so many pairs, and of more calls the texts are joined."""
    names = list(pairs)
    pieces = [
        f"json_build_object({_listed({name: pairs[name] for name in names[start : start + _MOST_PAIRS]})})"
        for start in range(0, len(names), _MOST_PAIRS)
    ]
    if len(pieces) == 1:
        return pieces[0]
    inner = ", ".join(f"right(left({piece}::text, -1), -1)" for piece in pieces)  # without their braces
    return f"('{{' || concat_ws(', ', {inner}) || '}}')::json"


def _listed(pairs: Mapping[str, str]) -> str:
    return ", ".join(f"'{name}', {value}" for name, value in pairs.items())
