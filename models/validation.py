"""The base class and the types of everything a person may send: strict, bounded, without surprises."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError


class Strict(BaseModel):
    """A part of a request: unknown fields, coercion, NaN and infinity are refused; instances are immutable."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


def _printable(text: str) -> str:
    # Control characters, lone surrogates, unassigned: Postgres refuses some, terminals obey others.
    if any(unicodedata.category(character) in {"Cc", "Cs", "Cn", "Co"} for character in text):
        raise PydanticCustomError("unprintable_text", "Text may not contain control characters or lone surrogates")
    return text


Name = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_printable)]
Tag = Annotated[str, StringConstraints(min_length=1, max_length=64), AfterValidator(_printable)]
QueueName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
MetadataKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
MetadataValue = Annotated[str, StringConstraints(max_length=512), AfterValidator(_printable)]

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d(:\d\d(\.\d{1,9})?)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _as_rfc3339(value: Any) -> Any:
    # A lax datetime would also take a number for seconds since 1970.
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise PydanticCustomError("datetime_format", "Input should be a time such as 2027-02-28T12:00:00Z")
    return value


Moment = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_as_rfc3339)]

_CODES = {
    "model_attributes_type": "object_type",
    "model_type": "object_type",
    "union_tag_invalid": "literal_error",
    "union_tag_not_found": "missing",
}


def error_code(error: Any) -> str:
    """Return the stable code of one pydantic error; how a model is built inside does not show in it."""
    return _CODES.get(error["type"], str(error["type"]))


def field_path(error: Any, path: Sequence[str | int], sent: Any) -> str:
    """Return the dotted path of one pydantic error as a reader finds it in what was `sent`.

    `path` is where pydantic saw the error, from the top of `sent`. It holds the tags of union members too, which are no
    fields: whatever is not in what was sent is such a tag, but for a field that is missing.
    """
    parts: list[str] = []
    here = sent
    for place, part in enumerate(path, start=1):
        is_there = part in here if isinstance(here, dict) else isinstance(here, list) and isinstance(part, int)
        if is_there:
            here = here[part]
        elif error["type"] != "missing" or place < len(path):
            continue
        parts.append(str(part))
    if error["type"].startswith("union_tag_"):
        parts.append(error["ctx"]["discriminator"].strip("'"))
    return ".".join(parts)
