"""JSON is parsed strictly, and a value that is not what it must be is refused with its value."""

import math
from typing import Any

import pytest

from m2d_export.errors import DataError
from m2d_export.host.checks import (
    Check,
    flag,
    json_lines,
    list_of,
    number,
    object_of,
    one_of,
    or_null,
    parse_json,
    printable,
    sha256,
    string,
    whole,
    whole_from,
)


def test_json_is_parsed_from_text_and_from_bytes() -> None:
    assert parse_json('{"a": [1, {"b": null}]}') == parse_json(b'{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{", "line 1"),
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "-Infinity"),
        ('{"a": 1, "b": 2, "a": 1}', "'a'"),
        ('[{"b": {"c": 1, "c": 2}}]', "'c'"),
        ("[" * 100_000, "nested"),
        (b'"\xff"', "utf-8"),
        ("1" * 5000, "limit"),
    ],
    ids=["cut off", "NaN", "infinity", "key twice", "key twice inside", "nested", "not UTF-8", "5,000 digits"],
)
def test_what_is_not_strict_json_is_a_value_error(text: str | bytes, value: str) -> None:
    with pytest.raises(ValueError, match=value):
        parse_json(text)


ACCEPTED: list[tuple[Check[Any], list[Any]]] = [
    (string, ["", "a\nb"]),
    (printable, ["", "a b"]),
    (sha256, ["0f" * 32]),
    (flag, [True, False]),
    (whole, [0, 7]),
    (whole_from(1), [1, 2**63 - 1]),
    (number, [0, -1.5, 10]),
    (one_of("a", "b"), ["a", "b"]),
    (or_null(whole), [None, 3]),
    (list_of(whole), [[], [1, 2, 3]]),
    (list_of(whole, 2), [[3, 64]]),
    (object_of(or_null(number), "cosine"), [{"cosine": None}, {"cosine": 1.5, "dot": 2}]),
]
REFUSED: list[tuple[Check[Any], list[Any]]] = [
    (string, [None, 1, ["a"]]),
    (printable, [None, "a\x1b[31m", "\ud800"]),
    (sha256, [None, "0f", "0F" * 32, "xy" * 32]),
    (flag, [0, 1, "true", None]),
    (whole, [-1, 1.0, True, "1", None, 2**63]),
    (whole_from(1), [0]),
    (number, ["1", None, True, math.nan, math.inf, -math.inf, 10**400]),
    (one_of("a", "b"), ["c", None, ["a"]]),
    (or_null(whole), ["", -1]),
    (list_of(whole), [None, "12", {"a": 1}, [1, None]]),
    (list_of(whole, 2), [[], [1], [1, 2, 3]]),
    (object_of(number, "cosine"), [None, [], {}, {"dot": 1}, {"cosine": "1"}]),
]


@pytest.mark.parametrize(("check", "value"), [(check, value) for check, values in ACCEPTED for value in values])
def test_a_check_returns_what_it_accepts(check: Check[Any], value: Any) -> None:
    assert check(value) == value


@pytest.mark.parametrize(("check", "value"), [(check, value) for check, values in REFUSED for value in values])
def test_a_check_raises_value_error_for_anything_else(check: Check[Any], value: Any) -> None:
    with pytest.raises(ValueError, match=r"^expected "):
        check(value)


def test_an_error_shows_the_wrong_value_and_shortens_a_long_one() -> None:
    with pytest.raises(ValueError, match="'seven'"):
        list_of(whole)([1, "seven"])
    with pytest.raises(ValueError, match=r"x{50,60}\.\.$"):
        whole("x" * 1000)


def test_json_lines_have_their_place_and_only_line_feeds_end_them() -> None:
    text = '{"a": "\u2028"}\r\n\n  \n{"b": NaN}\n'
    (first, value), (second, _) = json_lines(text, "pairs.jsonl")
    assert (first, value, second) == ("pairs.jsonl, line 1", {"a": "\u2028"}, "pairs.jsonl, line 4")


@pytest.mark.parametrize("line", ["{", "[" * 100_000])
def test_a_line_that_is_not_json_is_named(line: str) -> None:
    with pytest.raises(DataError, match=r"a\.jsonl, line 2"):
        list(json_lines(f"1\n{line}\n", "a.jsonl"))
