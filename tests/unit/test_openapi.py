"""The API's description holds what it must for every operation, and its examples are what it says they are."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic_core.core_schema import ErrorType

from api.codes import CODES, FIELD_CODES, MEDIA_TYPE, PROBLEM_SCHEMA, field_table, names_in, table
from api.openapi import EXAMPLES
from models import errors, network
from models.validation import error_code

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def document(application: Any) -> Any:
    """The description, as `/openapi.json` has it."""
    return application.openapi()


@pytest.fixture(scope="module")
def operations(document: Any) -> Any:
    """The operations by their ids."""
    return {described["operationId"]: described for item in document["paths"].values() for described in item.values()}


def contents(operation: Any) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield status, media type and content of every answer that has a body."""
    for status, answer in operation.described["responses"].items():
        for media_type, content in answer.get("content", {}).items():
            yield int(status), media_type, content


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from references(inner)


def parameters(item: Any) -> list[Any]:
    return [described.get("parameters", []) for described in item.values()]


def object_defaults(part: Any) -> Iterator[Any]:
    """Yield every part of a schema whose default is an object; a field of the name `default` is not one."""
    if isinstance(part, dict):
        if isinstance(part.get("default"), dict) and not {"$ref", "type", "anyOf"} & set(part["default"]):
            yield part
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from object_defaults(inner)


def test_the_description_is_openapi_3_1_and_every_reference_in_it_leads_somewhere(document: Any) -> None:
    assert document["openapi"].startswith("3.1.")
    for reference in set(references(document)):
        here = document
        for part in reference.removeprefix("#/").split("/"):
            here = here[part]


def test_no_schema_bears_a_module_in_its_name_or_is_the_frameworks_own(document: Any) -> None:
    names = list(document["components"]["schemas"])
    assert [name for name in names if "__" in name or "-" in name or "ValidationError" in name] == []


def test_no_default_is_an_object_on_which_generators_of_clients_give_up(document: Any) -> None:
    described = [document["components"]["schemas"], [parameters(item) for item in document["paths"].values()]]
    assert list(object_defaults(described)) == []
    optimizer = document["components"]["schemas"]["TrainingSpec"]["properties"]["optimizer"]
    assert '"name": "sgd"' in optimizer["description"], "it is said in words"


def test_an_operation_has_a_name_for_generated_clients(operation: Any, document: Any) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)+", operation.name)
    assert operation.described["summary"]
    assert operation.described["description"]
    explained = {tag["name"] for tag in document["tags"] if tag["description"]}
    assert set(operation.described["tags"]) <= explained


def test_every_error_is_a_problem_with_an_example_for_each_code(operation: Any, require_conforms: Any) -> None:
    shown = [(status, media_type, content) for status, media_type, content in contents(operation) if status >= 400]
    assert {str(status) for status, _, _ in shown} == {name for name in operation.described["responses"] if name >= "4"}
    for status, media_type, content in shown:
        assert (media_type, content["schema"]) == (MEDIA_TYPE, PROBLEM_SCHEMA)
        assert content["examples"]
        for name, example in content["examples"].items():
            require_conforms(example["value"], content["schema"])
            assert (example["value"]["code"], example["value"]["status"]) == (name, status)
            assert CODES[name].status == status


def test_what_any_request_can_meet_is_documented(operation: Any) -> None:
    statuses = set(operation.described["responses"])
    assert {"400", "408", "431", "500"} <= statuses
    if operation.needs_token:
        assert {"401", "413", "429", "503"} <= statuses
        assert "403" in statuses or operation.path == "/me"
    else:
        assert operation.path in {"/healthz", "/readyz", "/metrics"}
    if "requestBody" in operation.described:
        assert {"415", "422"} <= statuses


def test_every_answer_carries_the_requests_id(operation: Any) -> None:
    for status, answer in operation.described["responses"].items():
        assert "X-Request-ID" in answer["headers"]
        if status == "429":
            assert {"Retry-After", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"} <= set(
                answer["headers"]
            )


def test_every_good_answer_has_an_example_that_is_what_its_schema_says(operation: Any, require_conforms: Any) -> None:
    shown = [(media_type, content) for status, media_type, content in contents(operation) if status < 400]
    assert shown or operation.method == "DELETE"
    for media_type, content in shown:
        assert "example" in content, f"record one in api/examples/{operation.name}.json"
        if media_type == "application/json":
            require_conforms(content["example"], content["schema"])
        else:
            assert content["example"].count("\n") > 1


def test_every_body_has_examples_that_are_accepted(operation: Any, require_conforms: Any, application: Any) -> None:
    by_type = operation.described.get("requestBody", {}).get("content", {})
    if not by_type:
        assert "415" not in operation.described["responses"], "without a body there is none to refuse"
        return
    assert set(by_type) == {"application/json"}
    content = by_type["application/json"]
    (body,) = (route.body_field for route in _routes(application) if route.name == operation.name)
    assert content["examples"]
    for example in content["examples"].values():
        require_conforms(example["value"], content["schema"])
        assert body.validate(example["value"], {}, loc=("body",))[1] == []


def test_no_recorded_example_is_left_over(operations: Any) -> None:
    assert {path.stem for path in EXAMPLES.glob("*.json")} <= set(operations)


def test_what_makes_something_says_where_it_is(operations: Any) -> None:
    for name in ("submit_job", "submit_sweep", "create_user", "create_token", "create_webhook"):
        assert "Location" in operations[name]["responses"]["201"]["headers"]


def test_every_code_in_the_source_is_in_the_table_with_its_status() -> None:
    found = set()
    for place, status, code in _made():
        assert CODES[code].status == status, place
        found.add(code)
    assert len(found) > 15


def test_every_code_in_the_table_is_somewhere_in_the_source() -> None:
    text = "".join(path.read_text("utf-8") for path in (ROOT / "api").rglob("*.py") if path.name != "codes.py")
    domain = {error.code for error in vars(errors).values() if isinstance(error, type) and hasattr(error, "code")}
    assert [name for name in CODES if name not in domain and f'"{name}"' not in text] == []


def test_every_code_is_documented_by_an_operation_but_those_that_mean_that_there_is_none(operations: Any) -> None:
    documented = {name for described in operations.values() for name in names_in(described["responses"])}
    assert set(CODES) - documented == {"not_found", "method_not_allowed"}


def test_the_page_holds_the_table_of_codes() -> None:
    page = (ROOT / "docs" / "api.md").read_text("utf-8")
    for whole in (table(), field_table()):
        assert whole in page, "replace the table with what `python -m api.codes` prints"


def test_every_code_of_a_field_is_in_the_table_or_pydantics_own_and_in_the_source() -> None:
    pydantics = set(get_args(ErrorType))
    renamed = {error_code({"type": name}) for name in pydantics}
    of_networks = {
        kind.code for kind in vars(network).values() if _is_error(kind) and kind.__module__ == "models.network"
    }
    found = set(_field_codes()) | of_networks | renamed
    assert found - pydantics - {"curve"} == set(FIELD_CODES), "`curve` is told of the recipes' files alone"


def test_what_is_wrong_with_a_request_is_never_said_without_its_field() -> None:
    assert [place for place, _, code in _made() if code in {"invalid_request", "invalid_spec"}] == []


def _routes(application: Any) -> Iterator[Any]:
    for context in iter_route_contexts(application.routes):
        if isinstance(context.original_route, APIRoute):
            yield context


def _is_error(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, errors.TrainyardError)


def _field_codes() -> Iterator[str]:
    """Yield the codes of fields that the source makes literally."""
    place_of_code = {"bad_query": 2, "bad_header": 2, "FieldError": 2, "PydanticCustomError": 0}
    for path in (*(ROOT / "api").rglob("*.py"), *(ROOT / "models").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in place_of_code and len(node.args) > place_of_code[called]:
                code = node.args[place_of_code[called]]
                if isinstance(code, ast.Constant):
                    yield str(code.value)


def _made() -> Iterator[tuple[str, object, str]]:
    """Yield where, with which status and with which code the web layer makes a problem, where it says so literally."""
    for path in sorted((ROOT / "api").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or len(node.args) < 2:
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            status, code = node.args[:2]
            literal = isinstance(status, ast.Constant) and isinstance(code, ast.Constant)
            if called in {"ProblemError", "problem", "_refuse"} and literal:
                yield f"{path.name}:{node.lineno}", ast.literal_eval(status), ast.literal_eval(code)
