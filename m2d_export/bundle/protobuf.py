"""Read protobuf messages; a table lists the fields that they may have."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
LAST_BYTE = 0x80  # smaller bytes end a varint
LONGEST = 10  # bytes of a varint

Span = tuple[int, int]  # where the value of a field of wire type BYTES begins and ends


@dataclass(frozen=True)
class Field:
    """A field that a message may have: ``wire`` is its type, ``many`` says that it may be there more than once."""

    name: str
    wire: int
    many: bool = False


def read_message(data: bytes, span: Span, fields: Mapping[int, Field], what: str) -> dict[str, Any]:
    """The fields of the message ``what`` by name: a number, a span, or a list of them where there may be many.

    A fixed number is given as its place. Raises ValueError for a field that is not among ``fields``, has another wire
    type, or is there twice and may not be, and for what is no protobuf message.
    """
    found: dict[str, Any] = {field.name: [] for field in fields.values() if field.many}
    for number, wire, value in _raw_fields(data, *span):
        field = fields.get(number)
        if field is None:
            raise ValueError(f"{what} has field {number}, which a bundle's graph must not have")
        if wire == field.wire:
            if field.many:
                found[field.name].append(value)
                continue
        elif field.many and wire == BYTES and field.wire == VARINT:  # the packed form of a list of numbers
            found[field.name].extend(packed_varints(data, value))
            continue
        else:
            raise ValueError(f"{field.name} of {what} has wire type {wire}, expected {field.wire}")
        if field.name in found:
            raise ValueError(f"{field.name} of {what} is there twice")
        found[field.name] = value
    return found


def packed_varints(data: bytes, span: Span) -> list[int]:
    """The numbers of a packed list."""
    place, end = span
    numbers = []
    while place < end:
        number, place = _varint(data, place, end)
        numbers.append(number)
    return numbers


def signed(number: int) -> int:
    """The int64 that a varint stands for."""
    return number - (1 << 64) if number >> 63 else number


def _raw_fields(data: bytes, place: int, end: int) -> Iterator[tuple[int, int, Any]]:
    """Number, wire type and value of each field."""
    value: Any
    while place < end:
        key, place = _varint(data, place, end)
        wire, value = key & 7, place
        if wire == VARINT:
            value, place = _varint(data, place, end)
        elif wire == BYTES:
            size, place = _varint(data, place, end)
            value = place, place + size
            place += size
        elif wire == FIXED32:
            place += 4
        elif wire == FIXED64:
            place += 8
        else:
            raise ValueError(f"wire type {wire} at byte {place} is none that ONNX has")
        if place > end:
            raise ValueError(f"a field ends at byte {place}, but its message at {end}")
        yield key >> 3, wire, value


def _varint(data: bytes, place: int, end: int) -> tuple[int, int]:
    """A number of up to 64 bits at ``place``, and the place after it."""
    number = shift = 0
    while place < end and shift < 7 * LONGEST:
        byte = data[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < LAST_BYTE:
            if number >> 64:
                break
            return number, place
        shift += 7
    raise ValueError(f"no number of 64 bits ends at byte {place}")
