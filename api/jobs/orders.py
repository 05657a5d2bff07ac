"""In which order jobs are listed, and the cursor after which a page goes on: a place in the order, not a number."""

import base64
import json
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from pydantic import AwareDatetime, Field, TypeAdapter
from sqlalchemy import ColumnElement, and_, null, or_

from api.jobs.filters import Number, bad_query, quoted
from models.job import Job
from models.scores import score_columns
from models.validation import Name

_LONGEST_CURSOR = 2_048
_UUID: TypeAdapter[UUID] = TypeAdapter(UUID)
_EpochNumber = Annotated[int, Field(ge=0, le=2**31 - 1)]


def _score_type(name: str) -> Any:
    return _EpochNumber if name.endswith(".epoch") else Number


_SORTS: dict[str, tuple[ColumnElement[Any], TypeAdapter[Any]]] = {
    "created_at": (Job.created_at.expression, TypeAdapter(AwareDatetime)),
    "name": (Job.name.expression, TypeAdapter(Name | None)),
    "status": (Job.status.expression, TypeAdapter(Name)),
    **{name: (column.expression, TypeAdapter(_score_type(name) | None)) for name, column in score_columns().items()},
}
SORTS = [f"{sign}{name}" for name in _SORTS for sign in ("", "-")]


@dataclass(frozen=True)
class Order:
    """An order of jobs, without a name newest first; those without a value come last, of equals the newest first."""

    name: str | None = None

    @classmethod
    def read(cls, name: str | None) -> "Order":
        """Return the order of this name; raise RequestValidationError."""
        if name is not None and name not in SORTS:
            known = ", ".join(_SORTS)
            message = f"There is no order {quoted(name)!r}; there are {known}, each with a - before it for descending"
            raise bad_query("sort", message, "unknown_sort")
        return cls(name)

    @property
    def value(self) -> ColumnElement[Any]:
        """What jobs are compared by before their ids."""
        return null() if self.name is None else _SORTS[self.name.removeprefix("-")][0]

    def by(self) -> list[ColumnElement[Any]]:
        """Return the terms of an ORDER BY."""
        if self.name is None:
            return [Job.id.desc()]
        value = self.value.desc() if self._descends else self.value.asc()
        return [value.nulls_last(), Job.id.desc()]

    def after(self, cursor: str) -> ColumnElement[bool]:
        """Return the condition on jobs behind a cursor of this order; raise RequestValidationError for any other."""
        value, job_id = self._place(cursor)
        older = Job.id < job_id
        if self.name is None:
            return older
        if value is None:
            return and_(self.value.is_(None), older)
        further = self.value < value if self._descends else self.value > value
        return or_(further, and_(self.value == value, older), self.value.is_(None))

    def cursor(self, value: Any, job_id: str) -> str:
        """Return the cursor of the last job of a page, which has this `value`."""
        if self.name is None:
            return job_id
        told = value.isoformat() if hasattr(value, "isoformat") else value
        place = json.dumps([self.name, told, job_id], ensure_ascii=False, separators=(",", ":"))
        return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")

    @property
    def _descends(self) -> bool:
        return self.name is not None and self.name.startswith("-")

    def _place(self, cursor: str) -> tuple[Any, UUID]:
        try:
            if self.name is None:
                return None, _UUID.validate_python(cursor)
            name, value, job_id = _opened(cursor)
            if name == self.name:
                return _SORTS[name.removeprefix("-")][1].validate_python(value), _UUID.validate_python(job_id)
        except (ValueError, RecursionError):  # ValidationError and JSONDecodeError are ValueErrors
            raise bad_query("after", "This is not the `next` of a page", "invalid_cursor") from None
        raise bad_query("after", "This is the `next` of a page in another order", "invalid_cursor")


def _opened(cursor: str) -> tuple[Any, Any, Any]:
    """Return the name of the order, the value and the id in a cursor; raise ValueError."""
    if len(cursor) > _LONGEST_CURSOR:
        raise ValueError("too long")
    place = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    if not isinstance(place, list) or len(place) != 3 or not isinstance(place[0], str):
        raise ValueError("not a place")
    return place[0], place[1], place[2]
