"""Damage to files, by a seed: to bytes, and to values of JSON."""

import json
import random
from typing import Any

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, -(2**70), 10**400, 0.5, 1e308, float("nan"), float("inf")),
    *("", "x", "\ud800", "\x00", "a" * 5000, "../../etc/passwd", "\u2028", [], {}, [[]], [None], {"a": {}}, ["x", 1]),
)


def damaged(text: str, rng: random.Random) -> bytes:
    """The text of a JSON file, or of a file of lines, with one to three changes."""
    kind = rng.randrange(6)
    if kind == 0:
        return _bytes(text.encode(), rng)
    if kind == 1:
        depth = rng.choice([50, 500, 100_000])
        place = rng.randrange(len(text) + 1)
        return (text[:place] + "[" * depth + "]" * depth + text[place:]).encode()
    lines = text.split("\n") if "\n{" in text else [text]
    number = rng.randrange(len(lines))
    try:
        value = json.loads(lines[number])
    except ValueError:
        return _bytes(text.encode(), rng)
    for _ in range(rng.randint(1, 3)):
        value = _changed(value, rng)
    line = json.dumps(value)
    if kind == 2 and line.startswith("{") and len(line) > 2:  # a key twice
        line = f"{{{line[1:-1]}, {line[1:-1]}}}"
    return "\n".join([*lines[:number], line, *lines[number + 1 :]]).encode()


def _bytes(data: bytes, rng: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(found) + 1)
        how = rng.randrange(4)
        if how == 0:
            found[place : place + 1] = bytes([rng.randrange(256)])
        elif how == 1:
            del found[place : place + rng.choice([1, 10, 1000])]
        elif how == 2:
            found[place:place] = rng.choice([b"\x00", b"\xff", b'"', b"}", b"1e999", b"\\ud800", b"\t", b"\n"])
        else:
            found[place:place] = found[: rng.randrange(1, 200)]
    return bytes(found)


def _changed(value: Any, rng: random.Random) -> Any:
    """The value with one value in it replaced, removed or moved to another key."""
    if not value or not isinstance(value, dict | list) or rng.random() < 0.15:
        return rng.choice(VALUES)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key, found = rng.choice(keys), value.copy()
    how = rng.random()
    if how < 0.15:
        del found[key]
    elif how < 0.25 and isinstance(value, dict):
        found[rng.choice(["", "x", "\ud800", *map(str, keys)])] = found.pop(key)
    else:
        found[key] = _changed(value[key], rng)
    return found
