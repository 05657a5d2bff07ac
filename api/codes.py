"""Every error code, its status and meaning, and how routes document it; `python -m api.codes` prints the tables."""

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
    Code("idempotency_key_reused", 422, "The key was sent with another request, or with other rights, before."),
    Code(
        "rate_limited",
        429,
        "The token's rate limit is used up, or 16 checks of the user's are in line; `Retry-After` says for how long.",
    ),
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


# The codes of single fields, beside those that pydantic itself has.
FIELD_CODES = {
    "conflict": "This field and another exclude each other, or one needs the other.",
    "datetime_format": "This is not a time with a date and a zone, as `2027-02-28T12:00:00Z` is.",
    "double_softmax": "The network ends in a softmax, which the loss applies itself.",
    "duplicate": "The same value stands in the list twice.",
    "file_name": "This is not the name of one file or folder, without slashes and without a dot at its beginning.",
    "invalid_cursor": "`after` is not the `next` of a page of this list, in this order.",
    "job_reference": "The job cannot wait for the one that is named, or start from its weights.",
    "layer_does_not_fit": "The layer cannot take what comes from the one before it, or the last one's output is wrong.",
    "memory_exceeded": "A training step needs more memory than any GPU has.",
    "network_does_not_fit": "The network cannot take samples of this shape.",
    "network_too_large": "The network has more layers, parameters or values than the service takes.",
    "no_checkpoint": "The job that is named has no checkpoint, and will have none.",
    "no_such_entry": "The path of a parameter leads to an entry that the list does not have.",
    "not_compared": "A score is to be compared with a number.",
    "object_type": "This is to be an object.",
    "overlap": "Of two parameters of a sweep one lies inside the other.",
    "padded_text": "The text begins or ends with a space.",
    "range": "`low`, `high` and `step` of a range do not go together.",
    "repeated": "This was sent more than once, and is taken once.",
    "same_for_all": "The jobs of a sweep do not differ in this.",
    "too_many_conditions": "The list has more conditions than a request may have.",
    "too_many_fields": "More fields are asked for than a request may name.",
    "unknown_event": "There is no event of this name.",
    "unknown_field": "There is no field of this name.",
    "unknown_filter": "There is no filter of this name.",
    "unknown_job": "There is no job of this id, or none that the caller may read.",
    "unknown_metric": "There is no metric of this name.",
    "unknown_parameter": "The query takes no parameter of this name.",
    "unknown_reason": "There is no failure of this name.",
    "unknown_recipe": "There is no recipe of this name.",
    "unknown_sort": "There is no order of this name.",
    "unprintable_text": "The text holds a control character, or what is no character.",
    "unsupported_header": "This route does not take the header.",
    "url_format": "This is not a URL as the service takes it.",
    "validation_split": "This is not 0, a fraction from 0.001 to 0.9, or `test`.",
}


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


def field_table() -> str:
    """Return the codes of fields as a Markdown table."""
    rows = [f"| `{name}` | {meaning} |" for name, meaning in FIELD_CODES.items()]
    return "\n".join(["| Code of a field | Meaning |", "|---|---|", *rows])


_FIELDS = {
    "invalid_spec": [FieldError("training.epochs", "Input should be greater than or equal to 1", "greater_than_equal")],
    "invalid_request": [FieldError("limit", "Input should be less than or equal to 100", "less_than_equal")],
}


def _example(code: Code) -> dict[str, Any]:
    fields = _FIELDS.get(code.name, [])
    detail = "; ".join(f"{field.loc}: {field.message}" for field in fields) or code.meaning
    return problem_body(code.status, code.name, detail, fields)


if __name__ == "__main__":
    print(table(), field_table(), sep="\n\n")
