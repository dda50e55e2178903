"""Parse JSON, and check that each value has the expected type and range.

A check is a function. It returns its value, or raises ValueError such as "expected a whole number, got 'x'".
"""

import json
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

from m2d_export.errors import DataError

T = TypeVar("T")
Check = Callable[[object], T]
LIMIT = 1 << 63  # an int64 is smaller
SHOWN = 60  # characters of a wrong value in an error message


def parse_json(text: str | bytes) -> Any:
    """Parse JSON strictly: no NaN or Infinity, and no key twice in an object. Raises ValueError."""
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def json_lines(text: str, source: str) -> Iterator[tuple[str, Any]]:
    """Yield the place (such as "``source``, line 3") and the value of each line of JSON; blank lines are skipped.

    NaN is accepted, because it may be in a field that this package does not read. Raises DataError.
    """
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: a JSON string may hold U+2028
        if line.strip():
            where = f"{source}, line {number}"
            yield where, json_line(line, where)


def json_line(line: str, where: str) -> Any:
    """The value of one line of a file with a JSON value on each line. Raises DataError that begins with ``where``."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON ({error}): write one JSON object on each line") from error


def check_format(found: object, known: int) -> None:
    """Raise ValueError unless ``found`` is the format number ``known``. If it is higher, the error says to update."""
    if type(found) is int and found > known:
        raise ValueError(f"format {found} is newer than format {known}: update m2d-export (pip install -U m2d-export)")
    if type(found) is not int or found != known:
        raise ValueError(f"format {_shown(found)} is unknown: this version reads format {known}")


def check_that(fits: Callable[[Any], bool], expected: str) -> Check[Any]:
    """A check that accepts the values for which ``fits`` is true; ``expected`` describes them in the error."""

    def check(value: object) -> Any:
        if not fits(value):
            raise ValueError(f"expected {expected}, got {_shown(value)}")
        return value

    return check


def whole_from(least: int) -> Check[int]:
    """A check for whole numbers of at least ``least`` that fit in an int64."""
    expected = f"a whole number of at least {least}"
    return check_that(
        lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value < LIMIT, expected
    )


string: Check[str] = check_that(lambda value: isinstance(value, str), "a string")
printable: Check[str] = check_that(
    lambda value: isinstance(value, str) and value.isprintable(),  # control characters can upset a terminal
    "a string of printable characters",
)
sha256: Check[str] = check_that(
    lambda value: isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef"),
    "a sha256 of 64 hexadecimal digits",
)
flag: Check[bool] = check_that(lambda value: isinstance(value, bool), "true or false")
whole: Check[int] = whole_from(0)
number: Check[float] = check_that(
    lambda value: isinstance(value, int | float) and not isinstance(value, bool) and -LIMIT <= value < LIMIT,
    "a finite number",
)


def one_of(*values: str) -> Check[str]:
    """A check that accepts only ``values``."""
    return check_that(lambda value: value in values, f"one of {', '.join(values)}")


def or_null(check: Check[T]) -> Check[T | None]:
    """A check that accepts null too."""
    return lambda value: None if value is None else check(value)


def list_of(check: Check[T], length: int | None = None) -> Check[list[T]]:
    """A check for a list whose items pass ``check``; ``length`` is how many there must be, if not None."""

    def check_list(value: object) -> list[T]:
        if not isinstance(value, list) or length not in (None, len(value)):
            raise ValueError(f"expected a list{'' if length is None else f' of {length}'}, got {_shown(value)}")
        return [check(item) for item in value]

    return check_list


def object_of(check: Check[T], *required: str) -> Check[dict[str, T]]:
    """A check for an object that has the keys ``required``, and whose values all pass ``check``."""

    def check_object(value: object) -> dict[str, T]:
        if not isinstance(value, dict):
            raise ValueError(f"expected an object, got {_shown(value)}")
        missing = [key for key in required if key not in value]
        if missing:
            raise ValueError(f"expected an object with {', '.join(missing)}, got {_shown(value)}")
        return {key: check(item) for key, item in value.items()}

    return check_object


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + ".."


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number in JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is twice in an object")
    return found
