"""JSON bodies: what could be read in two ways, or cost the reader dearly, is refused."""

import json
import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.problems import ProblemError
from api.strict_json import MAX_DEPTH, parse


def refusal_of(content: bytes) -> str:
    """Return the detail with which a body is refused."""
    with pytest.raises(ProblemError) as refused:
        parse(content)
    assert (refused.value.status_code, refused.value.code) == (400, "invalid_json")
    return str(refused.value.detail)


def nested(depth: int, opening: str = "[", closing: str = "]") -> bytes:
    return (opening * depth + closing * depth).encode()


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("place", ["%s", "[1, %s]", '{"training": {"l2_penalty": %s}}'])
def test_a_constant_that_is_no_json_number_is_refused_by_its_name(constant: str, place: str) -> None:
    assert refusal_of((place % constant).encode()) == (f"The body is not valid JSON: {constant} is not a JSON number.")


@pytest.mark.parametrize(
    "content",
    [
        b'{"epochs": 1, "epochs": 2}',
        b'{"training": {"epochs": 1, "seed": 3, "epochs": 1}}',
        b'[[{"a": {"epochs": null, "epochs": {}}}]]',
        b'{"epochs": 1, "\\u0065pochs": 1}',
    ],
)
def test_a_key_that_stands_twice_in_one_object_is_refused_by_its_name(content: bytes) -> None:
    assert refusal_of(content) == "The body is not valid JSON: duplicate key 'epochs'."


def test_a_key_may_stand_in_two_objects() -> None:
    assert parse(b'{"name": {"name": [{"name": 1}, {"name": 2}]}}') == {"name": {"name": [{"name": 1}, {"name": 2}]}}


def test_a_duplicate_among_very_many_keys_is_found_at_once() -> None:
    keys = [*(f'"{number:x}":0' for number in range(30_000)), '"last":0', '"last":0']
    started = time.monotonic()
    assert "duplicate key 'last'" in refusal_of(("{" + ",".join(keys) + "}").encode())
    assert time.monotonic() - started < 5, "the time must not grow with the square of the number of keys"


@pytest.mark.parametrize(
    "content",
    [
        b'"\xff"',
        b'{"name": "\xc3\x28"}',
        b'"\xed\xa0\x80"',
        b'"\xc0\xaf"',
        '{"name": "lenet"}'.encode("utf-16"),
        '{"name": "lenet"}'.encode("utf-32"),
        b"\xef\xbb\xbf{}",
    ],
    ids=["a lone byte", "a broken pair", "a surrogate", "an overlong slash", "utf-16", "utf-32", "a byte order mark"],
)
def test_a_body_that_is_not_plain_utf_8_is_refused(content: bytes) -> None:
    assert refusal_of(content).startswith("The body is not valid JSON: ")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b" ",
        b"{",
        b'{"a": 1,}',
        b"[1] [2]",
        b"{'a': 1}",
        b"{a: 1}",
        b"01",
        b"0x1",
        b"+1",
        b".5",
        b'"\n"',
        b"\x00",
        b"nan",
    ],
)
def test_what_is_no_json_text_is_refused(content: bytes) -> None:
    assert refusal_of(content).startswith("The body is not valid JSON: ")


def test_depth_is_accepted_up_to_the_limit_and_refused_beyond_it() -> None:
    assert MAX_DEPTH == 32
    assert parse(nested(32)) == json.loads(nested(32))
    assert parse(nested(32, '{"a":[', "]}")[: 6 * 16] + b"0" + b"]}" * 16) is not None
    detail = "The body is nested more than 32 levels deep."
    assert refusal_of(nested(33)) == detail
    assert refusal_of(b'{"a":' * 33 + b"0" + b"}" * 33) == detail
    assert refusal_of(b'[1, {"a": 1}, ' + nested(32) + b"]") == detail


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, nested(100_000), b'{"a":' * 100_000, nested(5_000), b'[{"a":' * 50_000]
)
def test_a_body_of_very_many_opening_brackets_is_refused_and_breaks_nothing(content: bytes) -> None:
    assert refusal_of(content).startswith("The body is ")


def test_an_integer_of_thousands_of_digits_is_refused() -> None:
    assert refusal_of(b'{"seed": ' + b"9" * 5_000 + b"}").startswith("The body is not valid JSON: ")


def test_a_number_beyond_the_range_of_floats_is_left_to_the_field_that_it_is_meant_for() -> None:
    assert parse(b'{"learning_rate": 1e999, "other": -1e999}') == {"learning_rate": math.inf, "other": -math.inf}


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(), values, max_size=4),
    max_leaves=20,
)


@given(value=JSON_VALUES, ascii_only=st.booleans())
def test_what_python_writes_is_read_back_as_it_was(value: Any, ascii_only: bool) -> None:
    assert parse(json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")) == value


@given(content=st.binary(max_size=64))
def test_any_bytes_are_read_as_json_or_refused_and_nothing_else(content: bytes) -> None:
    try:
        value = parse(content)
    except ProblemError:
        return
    assert value == json.loads(content)
