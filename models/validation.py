"""The base class and the text type of everything a person may send: strict, bounded, without surprises."""

import unicodedata
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints
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

_CODES = {
    "model_attributes_type": "object_type",
    "model_type": "object_type",
    "union_tag_invalid": "literal_error",
    "union_tag_not_found": "missing",
}


def error_code(error: Any) -> str:
    """Return the stable code of one pydantic error; how a model is built inside does not show in it."""
    return _CODES.get(error["type"], str(error["type"]))
