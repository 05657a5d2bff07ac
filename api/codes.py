"""Every error code, its status and meaning, and how routes document it; `python -m api.codes` prints the table."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from api.problems import STATUS_OF, problem_body
from models.errors import FieldError

MEDIA_TYPE = "application/problem+json"
PROBLEM_SCHEMA = {"$ref": "#/components/schemas/Problem"}

Responses = dict[int | str, dict[str, Any]]


@dataclass(frozen=True)
class Code:
    """One stable code: the status that it comes with, and a sentence."""

    name: str
    status: int
    meaning: str


# The codes of the web layer; those of the domain are the classes of models/errors.py.
_WEB = (
    Code("malformed_request", 400, "The request is not HTTP as the service reads it."),
    Code("invalid_json", 400, "The body is not JSON, or could be read in two ways."),
    Code("unauthenticated", 401, "There is no token, or one that does not work."),
    Code("insufficient_scope", 403, "The token lacks the scope that this needs."),
    Code("admin_only", 403, "This needs an admin's token with the scope `admin`."),
    Code("not_found", 404, "There is nothing at this path."),
    Code("method_not_allowed", 405, "The path does not take this method; `Allow` names those it takes."),
    Code("not_acceptable", 406, "`Accept` takes none of the formats there are."),
    Code("request_timeout", 408, "The request did not arrive in time; the connection is closed."),
    Code("idempotency_in_flight", 409, "The same request is being answered right now; try again."),
    Code("body_too_large", 413, "The body has more bytes than this path takes."),
    Code("unsupported_media_type", 415, "The body is not declared as plain `application/json`."),
    Code("invalid_request", 422, "A parameter of the query or a header is wrong; `errors` names it."),
    Code("invalid_value", 422, "The database cannot store a value of this request."),
    Code("invalid_event_id", 422, "`Last-Event-ID` names no event of this stream."),
    Code("idempotency_key_reused", 422, "The key was sent with another request before."),
    Code("rate_limited", 429, "The token's rate limit is used up; `Retry-After` says for how long."),
    Code("headers_too_large", 431, "Request line and headers have more bytes than the service takes."),
    Code("internal_error", 500, "An unexpected error, which has been logged under the request's id."),
    Code("database_unavailable", 503, "The database does not answer; try again."),
    Code("broker_unavailable", 503, "The broker does not answer; jobs are taken and wait."),
    Code("not_migrated", 503, "The database is not of the version that this code expects."),
)


def _all() -> dict[str, Code]:
    domain = (Code(error.code, status, (error.__doc__ or "").splitlines()[0]) for error, status in STATUS_OF.items())
    return {code.name: code for code in sorted((*_WEB, *domain), key=lambda code: (code.status, code.name))}


CODES = _all()


def answers(*names: str) -> Responses:
    """Return what the `responses` of a route say of these codes; raise KeyError for one that there is not."""
    found: Responses = {}
    for code in sorted((CODES[name] for name in set(names)), key=lambda code: (code.status, code.name)):
        answer = found.setdefault(
            code.status, {"description": "", "content": {MEDIA_TYPE: {"schema": PROBLEM_SCHEMA, "examples": {}}}}
        )
        answer["description"] = f"{answer['description']} `{code.name}`: {code.meaning}".strip()
        answer["content"][MEDIA_TYPE]["examples"][code.name] = {"value": _example(code)}
    return found


def names_in(responses: dict[str, Any]) -> set[str]:
    """Return the codes that `answers` has put into the responses of an operation."""
    contents = (answer.get("content", {}).get(MEDIA_TYPE, {}) for answer in responses.values())
    return {name for content in contents for name in content.get("examples", {})}


def table(codes: Iterable[Code] = CODES.values()) -> str:
    """Return the codes as a Markdown table."""
    rows = [f"| {code.status} | `{code.name}` | {code.meaning} |" for code in codes]
    return "\n".join(["| Status | Code | Meaning |", "|---|---|---|", *rows])


_FIELDS = {
    "invalid_spec": [FieldError("training.epochs", "Input should be greater than or equal to 1", "greater_than_equal")],
    "invalid_request": [FieldError("limit", "Input should be less than or equal to 100", "less_than_equal")],
}


def _example(code: Code) -> dict[str, Any]:
    fields = _FIELDS.get(code.name, [])
    detail = "; ".join(f"{field.loc}: {field.message}" for field in fields) or code.meaning
    return problem_body(code.status, code.name, detail, fields)


if __name__ == "__main__":
    print(table())
