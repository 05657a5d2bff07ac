"""Which representation a client wants, by RFC 9110: media type, gzip, and whether it has it already."""

from enum import StrEnum
from functools import lru_cache

from api.problems import ProblemError

_REMEMBERED = 64  # clients send few different headers


class MediaType(StrEnum):
    """What curves are written as, the preferred first."""

    JSON = "application/json"
    NDJSON = "application/x-ndjson"
    CSV = "text/csv"


@lru_cache(_REMEMBERED)
def wanted_type(accept: str) -> MediaType:
    """Return the media type that an Accept header prefers; raise ProblemError (406 `not_acceptable`) for none."""
    qualities = _qualities(accept)
    best = max(MediaType, key=lambda offered: _quality_of(offered, qualities))
    if _quality_of(best, qualities) > 0:
        return best
    offers = ", ".join(MediaType)
    raise ProblemError(406, "not_acceptable", f"The Accept header takes none of what there is: {offers}.")


@lru_cache(_REMEMBERED)
def takes_gzip(accept_encoding: str) -> bool:
    """Tell whether an Accept-Encoding header allows gzip."""
    qualities = _qualities(accept_encoding)
    return qualities.get("gzip", qualities.get("*", 0.0)) > 0


def is_among(tag: str, if_none_match: str) -> bool:
    """Compare an entity tag with an If-None-Match header: any of the listed ones, weakly."""
    listed = [entry.strip().removeprefix("W/") for entry in if_none_match.split(",")]
    return "*" in listed or tag in listed


def _quality_of(offered: MediaType, qualities: dict[str, float]) -> float:
    """Return the quality of the most specific range that covers the type."""
    ranges = (offered.value, f"{offered.partition('/')[0]}/*", "*/*")
    return next((qualities[covering] for covering in ranges if covering in qualities), 0.0)


def _qualities(header: str) -> dict[str, float]:
    """Return what a header lists with its quality; a quality that is no number is 0."""
    listed: dict[str, float] = {}
    for entry in header.split(","):
        name, *parameters = (part.strip().lower() for part in entry.split(";"))
        quality = next((part.removeprefix("q=") for part in parameters if part.startswith("q=")), "1")
        listed[name] = float(quality) if quality.replace(".", "", 1).isdecimal() else 0.0
    return listed
